"""Calibration against statistics computed by hand."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from anywidth import Elastic, errors
from anywidth.norms.calibration import inputs_of
from oracles import TIGHT, fill_
from two_norms import BATCHES, SIZES, Net, X, by_hand, elastic, half, statistics


@pytest.mark.parametrize("count", [1, 3])
def test_calibration_is_the_average_of_batch_statistics(count):
    net = elastic()
    net.calibrate(iter(BATCHES), widths=[0.5], batches=count)
    expected = by_hand(half(net), [x for x, _ in BATCHES[:count]])
    got = statistics(net, 0.5)
    for name, value in expected.items():
        assert_close(got[name], value, rtol=1e-12, atol=1e-12)
    assert {int(t) for n, t in got.items() if n.endswith("num_batches_tracked")} == {count}


def test_calibration_starts_anew_each_time():
    net = elastic()
    net.calibrate(BATCHES[3:], widths=[0.5])
    net.calibrate(BATCHES[:2], widths=[0.5])
    assert_close(
        statistics(net, 0.5)["n1.running_mean"],
        by_hand(half(net), [x for x, _ in BATCHES[:2]])["n1.running_mean"],
    )


def test_calibration_of_the_full_width_fills_the_models_own_statistics():
    net = elastic()
    net.calibrate(BATCHES, widths=[1.0], batches=2)
    expected = by_hand(fill_(Net(*SIZES), net.model, {}), [x for x, _ in BATCHES[:2]])
    for name, value in expected.items():
        assert_close(net.model.state_dict()[name], value, rtol=1e-12, atol=1e-12)
    assert net.norm_state() == {}


def test_calibration_then_evaluation_is_a_compact_network():
    net = elastic(widths=[0.5, 1.0])
    net.calibrate(BATCHES, batches=2)
    net.eval()
    other = half(net).eval()
    other.load_state_dict(by_hand(half(net), [x for x, _ in BATCHES[:2]]), strict=False)
    other.eval()
    assert_close(net.at(0.5)(X), other(X), **TIGHT)
    assert_close(net.extract(0.5)(X), other(X), **TIGHT)


def test_calibration_changes_nothing_else():
    net = elastic(widths=[0.25, 0.5, 1.0])
    net.calibrate(BATCHES, widths=[0.25])
    net.eval()
    net.model.n1.train()
    before = {n: t.clone() for n, t in net.state_dict().items()} | statistics(net, 0.25)
    modes = [m.training for m in net.modules()]
    net.calibrate(BATCHES, widths=[0.5])
    after = net.state_dict() | statistics(net, 0.25)
    assert all(torch.equal(t, after[n]) for n, t in before.items() if "statistics/0.5/" not in n)
    assert [m.training for m in net.modules()] == modes
    assert [m.momentum for m in net.at(0.5).modules() if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]
    assert all(p.grad is None for p in net.parameters())


def test_calibration_switches_dropout_off():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.9), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)).double()
    net = Elastic(model, X).train()
    net.calibrate([X], widths=[0.5])
    first = statistics(net, 0.5)
    net.calibrate([X], widths=[0.5])
    assert all(torch.equal(t, first[n]) for n, t in statistics(net, 0.5).items())


def test_calibrating_an_unlisted_width_lists_it():
    net = elastic()
    net.calibrate(BATCHES, widths=[0.4])
    assert 0.4 in net.widths
    assert net.has_statistics(0.4)
    assert not net.has_statistics(0.3)
    w = net.space.sample(torch.Generator().manual_seed(3))
    net.calibrate(BATCHES, widths=[w])
    assert net.widths[w] == w
    net.eval()
    assert net.at(w)(X).isfinite().all()


def test_calibration_without_data_is_an_error():
    with pytest.raises(
        errors.StatisticsError, match=r"the loader is empty. Give a loader over training images"
    ):
        elastic().calibrate([], widths=[0.5])


def test_calibration_of_frozen_norms_is_an_error():
    with pytest.raises(
        errors.StatisticsError, match=r"norm='frozen' keeps the wide network's statistics.*norm='shared'"
    ):
        elastic(norm="frozen").calibrate(BATCHES)


def test_inputs_of_a_batch():
    assert inputs_of((1, 2)) == inputs_of([1]) == inputs_of(1) == 1
