import pytest
import torch
from torch import nn
from torch.testing import assert_close

from live_views import X, mlp


def test_forward_as_accelerate_patches_it():
    accelerate = pytest.importorskip("accelerate")
    net = mlp().eval()
    view = net.at(0.5)
    seen = []

    class Hook(accelerate.hooks.ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            seen.append(type(module).__name__)
            return args, kwargs

    for m in net.model:
        accelerate.hooks.add_hook_to_module(m, Hook())
    with torch.no_grad():
        assert_close(view(X), net.at(0.5)(X))
    assert len(seen) == 12
    assert view[0].forward is not net.model[0].forward
    out = net.at(0.5)(X)
    with torch.no_grad():
        net.model[0].weight[8:] = torch.nan
    assert_close(net.at(0.5)(X), out)


def test_the_class_of_a_view_has_the_models_own_forward():
    view = mlp().at(0.5)
    assert type(view).forward is nn.Sequential.forward
    assert view[0].forward.__self__ is view[0]
    assert view[0].forward.__func__ is nn.Linear.forward


def test_a_forward_of_a_views_own_comes_before_that_of_the_wide_network():
    net = mlp().eval()
    view = net.at(0.5)
    expected = view(X)
    net.model[5].forward = lambda x: x.new_zeros(len(x), 2)
    assert not view(X).any()
    view[5].forward = lambda x: x.new_ones(len(x), 2)
    assert (view(X) == 1).all()
    assert not net.at(0.25)(X).any()
    del view[5].forward
    del net.model[5].forward
    assert_close(view(X), expected)
