import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from anywidth import Elastic
from live_views import Packed, X, packed, same
from narrow_views import IMAGE, KINDS, NARROW, OTHER, WIDE, assert_is_compact, compact, elastic, where, width
from oracles import TIGHT, assert_same_grads, expected_grads, rand, randomized, scalar
from random_nets import RandomNet


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_survive_zero_grad_of_either_kind(to_none):
    net, x = elastic(), rand(*IMAGE)
    view, other = net.at(width(net)), compact(net)
    scalar(other(x)).backward()
    expected = expected_grads(net.model, other, where())
    for _ in range(3):
        net.zero_grad(set_to_none=to_none)
        scalar(view(x)).backward()
        assert_same_grads(net.model, expected)
        grads = {n: p.grad for n, p in other.named_parameters()}
        assert_close(
            {n: p.grad for n, p in view.named_parameters()}, grads, **TIGHT
        )  # parts of the wide ones


def test_two_widths_in_one_backward_add_up():
    net, x = elastic(), rand(*IMAGE)
    parts = []
    for sizes in (NARROW, OTHER):
        other = compact(net, sizes)
        scalar(other(x)).backward()
        parts.append(expected_grads(net.model, other, where(sizes)))
    loss = scalar(net.at(width(net, NARROW))(x)) + scalar(net.at(width(net, OTHER))(x))
    loss.backward()
    assert_same_grads(net.model, {n: parts[0][n] + parts[1][n] for n in parts[0]})


def test_one_width_twice_in_one_backward_adds_up():
    net, x, y = elastic(), rand(*IMAGE), rand(*IMAGE, seed=5)
    view, other = net.at(width(net)), compact(net)
    (scalar(other(x)) + scalar(other(y))).backward()
    (scalar(view(x)) + scalar(view(y))).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, where()))


def test_gradients_of_the_wide_network_and_of_views_add_up():
    net, x = elastic(), rand(*IMAGE)
    other, full = compact(net), copy.deepcopy(net.model)
    scalar(other(x)).backward()
    scalar(full(x)).backward()
    expected = expected_grads(net.model, other, where())
    for n, p in full.named_parameters():
        expected[n] += p.grad
    scalar(net(x)).backward()
    scalar(net.at(1.0)(x)).backward()
    scalar(net.at(width(net))(x)).backward()
    for n, p in full.named_parameters():
        expected[n] += p.grad
    assert_same_grads(net.model, expected)


def test_the_gradient_of_a_whole_parameter_is_not_shared_with_the_graph():
    """The full-width view hands its gradient over: adding to it later must not change another tensor."""
    net = Elastic(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double(), rand(2, 3))
    seen = []
    net.at(1.0)[1].bias.register_hook(seen.append)
    net.at(1.0)(rand(2, 3)).sum().backward()
    first = seen[0].clone()
    net.at(1.0)(rand(2, 3)).sum().backward()
    assert torch.equal(seen[0], first)
    assert torch.equal(net.model[1].bias.grad, 2 * first)


def test_parameters_that_need_no_gradient_get_none():
    net = elastic()
    for p in net.model.stem.parameters():
        p.requires_grad_(False)
    net.drop_views_()
    view = net.at(width(net))
    assert not view.stem.weight.requires_grad
    scalar(view(rand(*IMAGE))).backward()
    assert net.model.stem.weight.grad is None
    assert net.model.head.weight.grad is not None


def test_freezing_parameters_reaches_views_made_before():
    net = elastic()
    view = net.at(width(net))
    for learns in (False, True):
        net.model.stem.requires_grad_(learns)
        net.zero_grad()
        scalar(view(rand(*IMAGE))).backward()
        assert (net.model.stem.weight.grad is not None) == learns
        assert net.at(width(net)) is view


def test_checkpointed_and_autocast_backward():
    net, x = elastic(), rand(*IMAGE)
    view, other = net.at(width(net)), compact(net)
    scalar(other(x)).backward()
    scalar(checkpoint(view, x, use_reentrant=False)).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, where()))
    net = net.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net.at(width(net))(x.float())
    out.float().sum().backward()
    assert net.model.stem.weight.grad.dtype == torch.float32


def test_gradients_of_inputs_pass_through():
    net, x = elastic(), rand(*IMAGE).requires_grad_()
    y = x.detach().clone().requires_grad_()
    scalar(net.at(width(net))(x)).backward()
    scalar(compact(net)(y)).backward()
    assert_close(x.grad, y.grad, **TIGHT)


@pytest.mark.parametrize(
    "optimiser", [partial(torch.optim.SGD, lr=0.1), partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)]
)
@pytest.mark.parametrize("foreach", [True, False])
def test_optimiser_steps_are_seen_by_views(optimiser, foreach):
    net = elastic()
    step = optimiser(net.parameters(), foreach=foreach)
    view, other = net.at(width(net)), net.at(width(net, OTHER))
    for _ in range(3):
        step.zero_grad()
        scalar(view(rand(*IMAGE))).backward()
        step.step()
        assert_is_compact(net, view)
        assert_is_compact(net, other, OTHER)
    assert net.at(width(net)) is view


def test_load_state_dict_in_place_is_seen_by_views():
    net = elastic()
    view = net.at(width(net))
    view(rand(*IMAGE))
    net.model.load_state_dict(randomized(RandomNet(KINDS, WIDE), seed=9).state_dict())
    assert_is_compact(net, view)


def test_load_state_dict_with_assign_is_seen_by_views():
    net = elastic()
    view = net.at(width(net))
    net.model.load_state_dict(randomized(RandomNet(KINDS, WIDE), seed=9).state_dict(), assign=True)
    assert_is_compact(net, view)
    assert net.at(width(net)) is view


@pytest.mark.parametrize("move", [lambda m: m.float(), lambda m: m.to(torch.float32), lambda m: m.to("meta")])
@pytest.mark.parametrize("whole", [True, False])
def test_views_follow_a_network_that_is_moved_or_cast(move, whole):
    net = elastic()
    view = net.at(width(net))
    move(net if whole else net.model)
    wide = net.model.stem.weight
    for v in (view, net.at(width(net))):
        assert (v.stem.weight.dtype, v.stem.weight.device) == (wide.dtype, wide.device)
        out = v(rand(*IMAGE).to(wide))
        assert (out.dtype, out.device) == (wide.dtype, wide.device)


def test_views_follow_a_replaced_parameter():
    net = elastic()
    view = net.at(width(net))
    net.model.head.bias = nn.Parameter(torch.ones(2, dtype=torch.float64))
    assert_is_compact(net, view)


def test_casting_to_the_same_type_keeps_views():
    net = elastic()
    view = net.at(width(net))
    net.double()
    assert_is_compact(net, net.at(width(net)))
    assert_is_compact(net, view)


def test_buffers_that_no_width_changes_are_shared():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.b(self.a(x))

    net = Elastic(Counting(), torch.randn(2, 3))
    assert net.model.calls == 0  # tracing and trying put it back
    net.at(0.5)(torch.randn(2, 3))
    net.at(1.0)(torch.randn(2, 3))
    assert net.model.calls == 2
    assert net.extract(0.5).calls == 2


def test_gathered_weights_are_read_at_the_time_of_use():
    net = packed()
    view = net.at(0.5)
    view(X)
    with torch.no_grad():
        net.model.qkv.weight.mul_(2)
    same(net)
    net.model.qkv.weight = nn.Parameter(torch.randn_like(net.model.qkv.weight))
    net.model.load_state_dict(randomized(Packed(), seed=3).state_dict(), assign=True)
    assert_close(view(X), net.extract(0.5)(X), **TIGHT)


def test_a_gathered_weight_changed_between_forward_and_backward():
    """The copy that the forward read is what the gradient is taken at."""
    net = packed()
    small = net.extract(0.5)
    out = net.at(0.5)(X)
    with torch.no_grad():
        net.model.qkv.weight.mul_(3)
    out.square().sum().backward()
    small(X).square().sum().backward()
    rows = torch.cat([torch.arange(4) + 8 * i for i in range(3)])
    assert_close(net.model.qkv.weight.grad[rows], small.qkv.weight.grad, **TIGHT)
    assert_close(net.model.o.weight.grad[:, :4], small.o.weight.grad, **TIGHT)
