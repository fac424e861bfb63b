"""Views: ordinary modules that alias the wide network, whatever is done to either."""

import torch
from hypothesis import given, settings
from torch import Tensor
from torch.func import functional_call
from torch.testing import assert_close

from anywidth import Elastic
from anywidth.views import AxisPlan, TensorCut, cut
from anywidth.views.slices import Slice
from narrow_views import IMAGE, KINDS, NARROW, elastic, where, width
from oracles import TIGHT, assert_narrow, fill_, hand_slice, positions, rand, randomized, scalar
from random_nets import RandomNet, group_names, nets, where_kept


@settings(max_examples=40)
@given(nets())
def test_random_nets_at_random_widths_are_the_nets_built_narrow(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE))
    assert {g.name: g.size for g in net.space.groups} == dict(zip(group_names(kinds), sizes, strict=True))
    kept = [len(u) for u in units]
    assert_narrow(
        net, width(net, kept, kinds), RandomNet(kinds, kept), rand(*IMAGE), where_kept(kinds, sizes, units)
    )


@settings(max_examples=25)
@given(nets(prefix=False))
def test_extraction_of_any_units_is_hand_slicing(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE))
    w = net.space.width(dict(zip(group_names(kinds), units, strict=True)))
    net.eval()
    small = net.extract(w)
    other = fill_(RandomNet(kinds, [len(u) for u in units]), net.model, where_kept(kinds, sizes, units))
    assert {n: t.shape for n, t in small.state_dict().items()} == {
        n: t.shape for n, t in other.state_dict().items()
    }
    for n, t in other.state_dict().items():
        assert torch.equal(small.state_dict()[n], t), n
    assert_close(small(rand(*IMAGE)), other(rand(*IMAGE)), **TIGHT)
    assert repr(small) == repr(other)


@settings(max_examples=25)
@given(nets(widths=2))
def test_nested_widths_give_nested_views(drawn):
    kinds, sizes, (a, b) = drawn
    small = [range(min(len(p), len(q))) for p, q in zip(a, b, strict=True)]
    net = Elastic(RandomNet(kinds, sizes), torch.randn(*IMAGE))
    with torch.no_grad():  # every element of every tensor gets a number of its own
        for p in net.model.parameters():
            p.copy_(torch.arange(p.numel()).view(p.shape))
    narrow, wider = (width(net, [len(u) for u in units], kinds) for units in (small, a))
    assert narrow <= wider <= net.space.full
    inner, outer = net.at(narrow), net.at(wider)
    for (n, p), q, r in zip(
        inner.named_parameters(), outer.parameters(), net.model.parameters(), strict=True
    ):
        mine, theirs = p.detach().flatten(), q.detach().flatten()
        assert torch.isin(mine, theirs).all(), n
        assert theirs[torch.isin(theirs, mine)].equal(mine), n  # in the same order
        assert torch.isin(theirs, r.detach()).all(), n


@settings(max_examples=25)
@given(nets())
def test_gradients_are_those_of_slicing_in_the_graph(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE)).train()
    shell = RandomNet(kinds, [len(u) for u in units]).double().train()
    kept = where_kept(kinds, sizes, units)
    wide = dict(net.model.named_parameters())
    sliced = {n: hand_slice(wide[n], positions(n, wide[n], p, kept)) for n, p in shell.named_parameters()}
    expected = torch.autograd.grad(scalar(functional_call(shell, sliced, rand(*IMAGE))), list(wide.values()))
    scalar(net.at(width(net, [len(u) for u in units], kinds))(rand(*IMAGE))).backward()
    for (n, p), g in zip(wide.items(), expected, strict=True):
        assert_close(p.grad, g, rtol=1e-12, atol=1e-12, msg=lambda text, n=n: f"{n}: {text}")


def test_prefixes_share_memory_with_the_wide_network():
    net = elastic()
    view = net.at(width(net))
    assert view.stem.weight.data_ptr() == net.model.stem.weight.data_ptr()
    with torch.no_grad():
        view.stem.weight[0, 0] = 42
    assert (net.model.stem.weight[0, 0] == 42).all()


def test_channels_last_weights_stay_channels_last():
    net = elastic()
    net.model.to(memory_format=torch.channels_last)
    assert_narrow(
        net, width(net), RandomNet(KINDS, NARROW), rand(*IMAGE).to(memory_format=torch.channels_last), where()
    )


def test_a_cut_takes_and_writes_like_fancy_indexing():
    wide = rand(5, 6, 4)
    chosen = torch.tensor([0, 3, 4]), torch.tensor([1, 2, 5])
    for parts in (
        (None, None, None),
        (slice(0, 2), None, slice(0, 3)),
        (chosen[0], None, None),
        (slice(0, 2), chosen[1], None),
        (chosen[0], chosen[1], None),
        (chosen[0], slice(0, 2), torch.tensor([3])),
        (chosen[0], chosen[1], torch.tensor([0, 3])),
        (None, torch.tensor([0, 3]), torch.tensor([0, 2])),
        (slice(0, 4), torch.tensor([0, 1, 3, 4]), None),
    ):
        index = [
            torch.arange(n) if p is None else torch.arange(p.stop) if isinstance(p, slice) else p
            for p, n in zip(parts, wide.shape, strict=True)
        ]
        mesh = torch.meshgrid(*index, indexing="ij")
        piece = TensorCut(parts)
        assert torch.equal(piece.of(wide), wide[mesh])
        assert piece.aliases == (not any(isinstance(p, Tensor) for p in parts))
        assert torch.equal(Slice(piece, wide.shape).take(wide), wide[mesh])
        value, expected = rand(*piece.of(wide).shape, seed=3), wide.clone()
        got = wide.clone()
        piece.write_(got, value)
        expected[mesh] = value
        assert torch.equal(got, expected)


def test_the_cut_of_a_full_axis_is_nothing():
    net = elastic()
    assert cut(net.space, "stem.weight", net.space.full) is None
    assert cut(net.space, "no.such.tensor", net.space.full) is None
    assert cut(net.space, "stem.weight", width(net)).axis_parts[0] == slice(0, 3)
    plan = AxisPlan.of(net.space.axes["head.weight"][1])
    assert (plan.total, plan.prefix) == (6, True)
