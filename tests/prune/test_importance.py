"""Importance of channels: coupled sources brought together, and the names that a call may give."""

import numpy as np
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth import prune
from anywidth.errors import WidthError
from judged_net import X, rows


def test_groups(net):
    assert {g.name: (g.size, g.stream) for g in net.space.groups} == {"stem": (6, True), "a": (5, False)}


def test_scales(net):
    found = prune.scores(net, "bn_scale")
    m = net.model
    np.testing.assert_allclose(found["a"], m.n2.weight.detach().abs())
    expected = (m.n1.weight.abs() + m.n3.weight.abs()).detach() / 2
    np.testing.assert_allclose(found["stem"], expected, rtol=1e-6)
    for reduce, value in (
        ("sum", 2 * expected),
        ("first", m.n1.weight.detach().abs()),
        ("max", torch.maximum(m.n1.weight.abs(), m.n3.weight.abs()).detach()),
    ):
        np.testing.assert_allclose(prune.scores(net, "bn_scale", reduce=reduce)["stem"], value, rtol=1e-6)


@pytest.mark.parametrize("normalize", ["none", "mean", "max", None])
def test_norms_of_weights(net, normalize):
    for criterion, norm in (("l1", lambda w: np.abs(w).sum(1)), ("l2", lambda w: np.sqrt((w**2).sum(1)))):
        found = prune.scores(net, criterion, normalize=normalize)["stem"]
        expected = (norm(rows(net.model.stem)) + norm(rows(net.model.c))) / 2
        scale = {"none": 1, "mean": expected.mean(), "max": expected.max(), None: expected.mean()}[normalize]
        np.testing.assert_allclose(found, expected / scale)


def test_baselines(net):
    a, b, c = (prune.scores(net, "random", seed=s)["a"] for s in (0, 0, 1))
    assert (a == b).all()
    assert not (a == c).any()
    width = prune.plan(net, 0.4, criterion="uniform")
    assert width.is_prefix
    assert dict(width) == {"stem": 4, "a": 3}  # 11 channels, 4 go: shares of 1/3 and 2/5


def test_positions_that_a_unit_has_several_of():
    """A flattened map: one channel of the convolution is nine columns of the linear layer that reads it, one row here."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(3, 4, 6), nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 2))
    net = aw.Elastic(flat, X)
    found = prune.scores(net, "l1", normalize="none")
    np.testing.assert_allclose(found["0"], np.abs(rows(flat[0])).sum(1))
    np.testing.assert_allclose(found["2"], np.abs(flat[2].weight.detach().double().numpy()).sum(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "l3"}, "unknown criterion 'l3'; use one of bn_scale, l1"),
        ({"criterion": "l1", "reduce": "median"}, "unknown reduce 'median'"),
        ({"criterion": "l1", "normalize": "std"}, "unknown normalize 'std'"),
    ],
)
def test_unknown_names(net, options, message):
    with pytest.raises(WidthError, match=message):
        prune.scores(net, **options)


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (lambda source: np.full(len(source.rows), np.nan), "gives numbers that are not finite for 0"),
        (lambda source: np.where(np.arange(len(source.rows)) == 1, np.inf, 1.0), "not finite for 0"),
        (
            lambda source: np.ones(len(source.rows) + 1),
            r"gives an array \(9,\) for 0; expected one number for each of 8 channels",
        ),
        (lambda source: source.rows.numpy(), "expected one number for each of 8 channels"),
    ],
)
def test_numbers_of_an_own_criterion_are_checked(criterion, message):
    net = aw.Elastic(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 4))
    with pytest.raises(WidthError, match=message):
        aw.prune.scores(net, criterion)


def test_an_own_criterion_may_give_a_tensor():
    net = aw.Elastic(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 4))
    by_tensor = aw.prune.scores(net, lambda source: source.rows.abs().sum(1), normalize="none")["0"]
    assert by_tensor == pytest.approx(net.model[0].weight.detach().abs().sum(1).double().numpy())
