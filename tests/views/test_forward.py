import pytest
import torch
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
