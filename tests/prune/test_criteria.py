"""Every criterion against its definition, computed here by other means."""

import numpy as np
import pytest
import torch
from torch import nn

import anywidth as aw
import user_code
from anywidth import prune
from anywidth.errors import RecipeError, WidthError
from anywidth.prune.criteria import CRITERIA, Criterion, criterion_of, criterion_of_sources
from judged_net import Net, X, rows


def test_lamp(net):
    w = (rows(net.model.a) ** 2).sum(1)
    expected = [v / w[w >= v].sum() for v in w]
    np.testing.assert_allclose(prune.scores(net, "lamp")["a"], expected)


def test_fpgm(net):
    w = rows(net.model.a)
    expected = np.array([sum(np.linalg.norm(a - b) for b in w) for a in w])
    np.testing.assert_allclose(prune.scores(net, "fpgm", normalize="none")["a"], expected)


def test_taylor(net):
    with pytest.raises(WidthError, match="'taylor' needs gradients and 'stem' has none"):
        prune.scores(net, "taylor")
    net(X).logsumexp(1).sum().backward()
    w, g = rows(net.model.a), net.model.a.weight.grad.double().flatten(1).numpy()
    np.testing.assert_allclose(prune.scores(net, "taylor")["a"], ((w * g) ** 2).sum(1), rtol=1e-9)


def test_activation(net):
    with pytest.raises(WidthError, match="needs inputs"):
        prune.scores(net, "activation")
    with pytest.raises(WidthError, match="no batch"):
        prune.scores(net, "activation", batches=[])
    seen = []
    hook = net.model.a.register_forward_hook(lambda m, args, out: seen.append(out))
    net(X)
    hook.remove()
    expected = seen[0].abs().mean((0, 2, 3)).detach()
    found = prune.scores(net, "activation", batches=[(X[:2], 0), (X[2:], 0)], normalize="none")
    np.testing.assert_allclose(found["a"], expected, rtol=1e-5)
    assert not net.model.a._forward_hooks


def test_a_transposed_convolution_makes_its_second_axis():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    net = aw.Elastic(model, X)
    expected = model[0].weight.detach().abs().double().sum((0, 2, 3))
    np.testing.assert_allclose(prune.scores(net, "l1", normalize="none")["0"], expected)


def test_a_network_without_the_norms_a_criterion_needs():
    net = aw.Elastic(Net(norms=False).eval(), X)
    with pytest.raises(WidthError, match=r"'bn_scale' needs batch norms.*Net has none; use criterion='l2'"):
        prune.plan(net, 0.5)


def test_a_users_criterion_is_one_like_ours():
    torch.manual_seed(0)
    net = aw.Elastic(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)), torch.randn(1, 3, 5, 5)
    )
    weight = net.model[0].weight.detach().double()
    expected = weight.abs().amax((1, 2, 3)).numpy()
    for criterion in ("user_code:largest_weight", user_code.largest_weight):
        seen = prune.scores(net, criterion, normalize="none")
        np.testing.assert_allclose(seen["0"], expected)
        width = prune.plan(net, 0.5, criterion=criterion)
        assert list(width.units(0)) == sorted(np.argsort(-expected)[:3].tolist())
    np.testing.assert_allclose(prune.scores(net, "user_code:largest_weight")["0"], expected / expected.mean())
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    gradient = net.model[0].weight.grad.double().sum((1, 2, 3)).numpy()
    np.testing.assert_allclose(
        prune.scores(net, "user_code:signed")["0"], gradient
    )  # comparable: not divided
    with pytest.raises(RecipeError, match="criterion 'user_code:nothing' cannot be imported"):
        prune.scores(net, "user_code:nothing")


def test_criteria_declare_what_they_need():
    assert [n for n, c in prune.CRITERIA.items() if c.needs_gradients] == ["taylor"]
    assert [n for n, c in prune.CRITERIA.items() if c.needs_batches] == ["activation"]


def linear_net() -> aw.Elastic:
    """One group of three channels, made by rows (3, 4), (0, 1) and (-2, 0)."""
    net = aw.Elastic(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(1, 2))
    with torch.no_grad():
        net.model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [-2.0, 0.0]]))
    return net


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("l1", [7, 1, 2]),
        ("l2", [5, 1, 2]),
        ("lamp", [1, 1 / 30, 4 / 29]),
        # Distances: 4.243 between the first two, 6.403 from the first to the third, 2.236 between the others.
        ("fpgm", [18**0.5 + 41**0.5, 18**0.5 + 5**0.5, 41**0.5 + 5**0.5]),
        ("uniform", [5 / 6, 1 / 2, 1 / 6]),
    ],
)
def test_values_by_hand(name, values):
    (_, found), *_ = CRITERIA[name](linear_net())
    np.testing.assert_allclose(found, values)


def test_a_score_looks_at_rows_of_output_channels():
    seen = []
    criterion = criterion_of_sources(lambda source: seen.append(source) or source.rows.sum(1).numpy())
    ((axis, values),) = criterion(linear_net())
    assert values.tolist() == [7, 1, -2]
    assert [(s.module, s.gradient, s.axis) for s in seen] == [("0", None, axis)]
    assert sum(run.positions for run in axis) == 3


def test_a_criterion_by_name_as_it_is_or_made_of_a_function():
    assert criterion_of("l2") is CRITERIA["l2"]
    own = Criterion(judge=lambda net, batches, seed: [])
    assert criterion_of(own) is own
    assert isinstance(criterion_of(user_code.largest_weight), Criterion)
    with pytest.raises(WidthError, match="unknown criterion 'l3'"):
        criterion_of("l3")
