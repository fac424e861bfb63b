"""Batch norms per width: shared, switchable, frozen."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from anywidth import Elastic, errors
from anywidth.norms.bank import NormBank, batch_norms, width_key
from oracles import TIGHT, assert_same_grads, expected_grads, fill_, randomized, scalar
from two_norms import BATCHES, HALF, SIZES, WHERE, Net, X, by_hand, elastic, half, statistics


def test_evaluation_without_statistics_names_the_call():
    net = elastic(widths=[0.5, 1.0]).eval()
    with pytest.raises(
        errors.StatisticsError,
        match=r"width 0.5 has no batch-norm statistics \('n1' and 1 more.*Call net.calibrate\(loader, widths=\[0.5\]\) first",
    ):
        net.at(0.5)(X)
    with pytest.raises(errors.StatisticsError, match=r"widths=\[0.3\]"):
        net.at(0.3)(X)
    net.list_width_("tiny", 0.25)
    with pytest.raises(errors.StatisticsError, match=r"width 'tiny' has.*widths=\['tiny'\]"):
        net.at("tiny")(X)
    net(X)
    net.at(1.0)(X)


def test_listed_widths_learn_statistics_with_momentum():
    net = elastic(widths=[0.5])
    mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for x, _ in BATCHES:
        now = by_hand(half(net), [x])
        mean, var = 0.9 * mean + 0.1 * now["n1.running_mean"], 0.9 * var + 0.1 * now["n1.running_var"]
        net.train().at(0.5)(x)
    got = statistics(net, 0.5)
    assert_close(got["n1.running_mean"], mean, rtol=1e-12, atol=1e-12)
    assert_close(got["n1.running_var"], var, rtol=1e-12, atol=1e-12)
    assert int(got["n1.num_batches_tracked"]) == len(BATCHES)
    assert net.has_statistics(0.5)
    net.eval().at(0.5)(X)


def test_unlisted_widths_leave_no_statistics():
    net = elastic(widths=[0.5])
    before = {n: t.clone() for n, t in (net.state_dict() | net.norm_state()).items()}
    net.train().at(0.3)(X)
    net.at(0.3)(X)
    assert all(torch.equal(before[n], t) for n, t in (net.state_dict() | net.norm_state()).items())
    assert not net.has_statistics(0.3)


def test_the_affine_pair_is_shared():
    net = elastic(widths=[0.5])
    assert net.at(0.5).n1.weight.data_ptr() == net.model.n1.weight.data_ptr()
    assert not list(net.norms.parameters())
    scalar(net.train().at(0.5)(X)).backward()
    other = half(net)
    scalar(other(X)).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, WHERE))


def test_the_full_widths_state_is_the_models_own():
    net = elastic(widths=[0.5, 1.0])
    net.train().at(1.0)(X)
    assert net.at(1.0).n1.running_mean is net.model.n1.running_mean
    assert int(net.model.n1.num_batches_tracked) == 1
    assert set(net.norm_state()) == {n for n in net.norm_state() if n.startswith(width_key(net.width(0.5)))}


def test_extracting_a_width_without_statistics_slices_the_wide_ones():
    net = elastic()
    small = net.extract(0.5)
    assert torch.equal(small.n1.running_var, net.model.n1.running_var[:4])
    assert torch.equal(small.n2.running_mean, net.model.n2.running_mean[HALF])


def test_batch_norms_without_statistics_need_none():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False), nn.Conv2d(8, 2, 1)
    ).double()
    net = Elastic(model, X).eval()
    assert batch_norms(model) == {}
    assert net.has_statistics(0.5)
    assert net.at(0.5)(X).shape == (4, 2, 5, 5)


def test_a_partly_frozen_view_needs_no_statistics_in_training():
    net = elastic(widths=[0.5]).train()
    view = net.at(0.5)
    view.n1.eval()
    with pytest.raises(errors.StatisticsError, match="'n1' and 0 more"):
        view(X)


def test_switchable_norms_are_independent_per_width():
    net = elastic(norm="switchable", widths=[0.5, 1.0])
    view = net.train().at(0.5)
    own = {n: p for n, p in view.named_parameters() if n.startswith("n")}
    assert len(list(net.norms.parameters())) == len(own) == 4
    assert {id(p) for p in own.values()} == {id(p) for p in net.norms.parameters()}
    with torch.no_grad():
        for i, p in enumerate(own.values()):
            p.add_(i + 1.0)
    assert_close(net.model.n1.weight, randomized(Net(*SIZES)).n1.weight)
    other = half(net)
    other.load_state_dict({n: p.detach() for n, p in own.items()}, strict=False)
    assert_close(view(X), other(X), **TIGHT)
    net.zero_grad()
    scalar(view(X)).backward()
    other.zero_grad()
    scalar(other(X)).backward()
    for n, p in own.items():
        assert_close(p.grad, other.get_parameter(n).grad, **TIGHT)
    assert net.model.n1.weight.grad is None
    grads = {n: g for n, g in expected_grads(net.model, other, WHERE).items() if not n.startswith("n")}
    assert_same_grads(net.model, grads)


def test_switchable_norms_train_like_independent_networks():
    """Two widths, three steps: what the widths do not share evolves as in nets of their own."""
    net = elastic(norm="switchable", widths=[0.5, 1.0])
    for p in [*net.model.a.parameters(), *net.model.b.parameters(), *net.model.head.parameters()]:
        p.requires_grad_(False)
    nets = {0.5: half(net), 1.0: fill_(Net(*SIZES), net.model, {})}
    step = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    steps = [torch.optim.SGD([*m.n1.parameters(), *m.n2.parameters()], lr=0.1) for m in nets.values()]
    net.norms.statistics[net.width(0.5)]["n1.running_mean"].copy_(nets[0.5].n1.running_mean)
    for x, _ in BATCHES[:3]:
        step.zero_grad()
        for optimiser in steps:
            optimiser.zero_grad()
        for w, m in nets.items():
            mine, theirs = net.train().at(w)(x), m.train()(x)
            assert_close(mine, theirs, **TIGHT)
            scalar(mine).backward()
            scalar(theirs).backward()
        step.step()
        for optimiser in steps:
            optimiser.step()
    assert_close(statistics(net, 0.5)["n1.running_mean"], nets[0.5].n1.running_mean, **TIGHT)
    assert_close(net.model.n2.running_var, nets[1.0].n2.running_var, **TIGHT)
    assert_close(net.extract(0.5).n1.weight, nets[0.5].n1.weight, **TIGHT)


def test_switchable_norms_have_only_listed_widths():
    net = elastic(norm="switchable", widths=[0.5, 1.0])
    with pytest.raises(
        errors.WidthError, match=r"this width has no batch norms of its own.*only listed widths exist"
    ):
        net.at(0.3)
    net.list_width_(0.3, 0.3)
    assert net.train().at(0.3)(X).shape == (4, 2)


def test_switchable_norms_and_chosen_units_do_not_go_together():
    net = elastic(norm="switchable", widths=[0.5])
    with pytest.raises(errors.WidthError, match="chosen units cannot be extracted with switchable norms"):
        net.extract(net.space.width({"a": [1, 2]}))


def test_switchable_state_is_in_the_state_dict():
    net, other = (elastic(norm="switchable", widths=[0.5]) for _ in range(2))
    with torch.no_grad():
        for p in net.norms.parameters():
            p.mul_(3)
    other.load_state_dict(net.state_dict())
    assert_close(other.train().at(0.5)(X), net.train().at(0.5)(X), **TIGHT)


def test_frozen_norms_use_slices_of_the_wide_statistics_and_never_learn():
    net = elastic(norm="frozen")
    other = half(net)
    for m in (other.n1, other.n2):
        m.eval()
    before = {n: b.clone() for n, b in net.model.named_buffers()}
    for train in (True, False):
        net.train(train)
        view = net.at(0.5)
        assert_close(view(X), other(X), **TIGHT)
    net.train()
    net.zero_grad()
    scalar(net.at(0.5)(X)).backward()
    other.zero_grad()
    scalar(other(X)).backward()
    assert_same_grads(net.model, expected_grads(net.model, other, WHERE))
    net.at(1.0)(X)
    assert all(torch.equal(before[n], b) for n, b in net.model.named_buffers())
    assert net.norm_state() == {}
    assert net.has_statistics(0.123)


def test_adding_a_width_never_breaks_loading():
    old, new = elastic(widths=[0.5]), elastic(widths=[0.25, 0.5, 0.75])
    old.calibrate(BATCHES, widths=[0.5])
    new.load_state_dict(old.state_dict())
    assert new.has_statistics(0.5)
    assert not new.has_statistics(0.25)
    new = elastic(widths=[0.25, 0.5, 0.75])
    state = old.norm_state()
    with pytest.raises(
        errors.StatisticsError, match="12 of 18 batch-norm tensors are missing in the saved statistics"
    ):
        new.load_norm_state_(state)
    assert not new.has_statistics(0.5)  # nothing was changed
    new.norms.load_state_(state, [new.width(0.5)])
    assert new.has_statistics(0.5)
    assert not new.has_statistics(0.25)
    for n, t in statistics(old, 0.5).items():
        assert torch.equal(statistics(new, 0.5)[n], t)


def test_norm_state_is_a_copy():
    net = elastic(widths=[0.5])
    state = net.norm_state()
    net.train().at(0.5)(X)
    assert all(int(t) == 0 for n, t in state.items() if n.endswith("num_batches_tracked"))


def test_statistics_follow_a_cast():
    net = elastic(widths=[0.5])
    net.calibrate(BATCHES)
    net.float().eval()
    assert net.norm_state()[f"{width_key(net.width(0.5))}/n1.running_mean"].dtype == torch.float32
    assert net.at(0.5)(X.float()).dtype == torch.float32
    assert statistics(net, 0.5)["n1.num_batches_tracked"].dtype == torch.long


def test_width_keys_are_stable():
    net = elastic()
    assert width_key(net.space.full) == width_key(elastic().space.full)
    assert width_key(net.space.full) != width_key(net.space.uniform(0.5))


def test_an_unknown_policy_is_an_error():
    with pytest.raises(
        ValueError, match="norm='batch' is no norm policy: use 'shared', 'switchable' or 'frozen'"
    ):
        elastic(norm="batch")


def test_forgetting_statistics():
    net = elastic(widths=[0.5])
    net.calibrate(BATCHES)
    bank: NormBank = net.norms
    bank.forget_(net.width(0.5))
    bank.forget_(net.width(0.3))
    assert not net.has_statistics(0.5)
