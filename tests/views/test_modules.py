import copy

import pytest
import torch
from torch import nn

from anywidth import errors
from live_views import X, mlp, same
from narrow_views import IMAGE, assert_is_compact, elastic, width
from oracles import rand
from random_nets import RandomNet


def test_a_replaced_module_makes_views_stale():
    net = elastic()
    view = net.at(width(net))
    net.model.head = nn.Linear(*net.model.head.weight.shape[::-1]).double()
    with pytest.raises(errors.StaleViewError, match=r"Call net.at\(width\) again"):
        view(rand(*IMAGE))
    assert_is_compact(net, net.at(width(net)))


def test_views_take_the_mode_of_the_network():
    net = elastic()
    net.eval()
    net.model.blocks[1].train()
    view = net.at(width(net))
    assert [m.training for m in view.modules()] == [m.training for m in net.model.modules()]
    net.train()
    assert all(m.training for m in net.at(width(net)).modules())


def test_the_type_and_names_are_the_models():
    net = elastic()
    view = net.at(width(net))
    assert isinstance(view, RandomNet)
    assert type(view).__name__ == "RandomNet"
    assert [n for n, _ in view.named_modules()] == [n for n, _ in net.model.named_modules()]
    assert list(view.state_dict()) == list(net.model.state_dict())
    assert view.stem is not net.model.stem
    assert all(isinstance(p, nn.Parameter) and p.grad_fn is not None for p in view.parameters())


def test_a_view_has_the_mode_of_the_wide_network_at_once():
    net = mlp()
    view = net.at(0.5)
    net.eval()
    assert not any(m.training for m in view.modules())
    net.model[1].train()
    assert view[1].training
    assert net.at(0.5) is view


def test_a_frozen_teacher():
    net = mlp()
    with pytest.raises(errors.ViewError, match=r"cannot freeze a view of Sequential.*net.extract\(width\)"):
        net.at(1.0).requires_grad_(False)
    for p in net.at(1.0).parameters():
        with pytest.raises(errors.ViewError, match="cannot be frozen"):
            p.requires_grad_(False)
        with pytest.raises(errors.ViewError, match="cannot be frozen"):
            p.requires_grad = False
    net.at(1.0)(X).sum().backward()
    assert all(p.grad is not None for p in net.model.parameters())
    net.model.requires_grad_(False)
    assert not net.at(0.5)(X).requires_grad
    assert net.at(0.5).requires_grad_ is not None
    net.model.requires_grad_(True)
    assert net.at(0.5)(X).requires_grad


@pytest.mark.parametrize("cast", [lambda v: v.half(), lambda v: v.to(torch.float32), lambda v: v.to("meta"), lambda v: v.to_empty(device="cpu"), lambda v: v.bfloat16()])  # fmt: skip
def test_casts_of_views_are_refused(cast):
    net = mlp()
    with pytest.raises(errors.ViewError, match=r"cannot move or cast a view"):
        cast(net.at(0.5))
    with pytest.raises(errors.ViewError):
        cast(net.at(0.5)[0])
    same(net.eval())


def test_casts_that_change_nothing_are_none():
    view = mlp().at(0.5)
    assert view.double() is view
    assert view.to("cpu") is view
    assert view.cpu() is view


def test_modules_of_a_view_may_be_replaced_there():
    net = mlp().eval()
    view = net.at(0.5)
    view[5] = nn.Identity()
    assert view(X).shape == (5, 6)
    assert net.at(0.5)(X).shape == (5, 2)
    view.add_module("6", nn.Flatten())
    assert len(view) == 7
    assert len(net.model) == 6
    assert copy.deepcopy(view)(X).shape == (5, 6)
