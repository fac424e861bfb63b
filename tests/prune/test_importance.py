"""Every criterion against its definition, computed here by other means."""

import numpy as np
import pytest
import torch
from torch import nn

import anywidth as aw
import user_code
from anywidth import prune
from anywidth.errors import RecipeError, WidthError

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """One inner group (a), and a stream that two layers write (stem, c)."""

    def __init__(self, norms: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
        self.n1, self.n2, self.n3 = (nn.BatchNorm2d(c) if norms else nn.Identity() for c in (6, 5, 6))
        self.head = nn.Linear(6, 4)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, -1, 1)

    def forward(self, x):
        x = torch.relu(self.n1(self.stem(x)))
        x = x + self.n3(self.c(torch.relu(self.n2(self.a(x)))))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net():
    return aw.Elastic(Net().eval(), X).eval()


def rows(conv) -> np.ndarray:
    return conv.weight.detach().double().flatten(1).numpy()


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


def test_a_transposed_convolution_makes_its_second_axis():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    net = aw.Elastic(model, X)
    expected = model[0].weight.detach().abs().double().sum((0, 2, 3))
    np.testing.assert_allclose(prune.scores(net, "l1", normalize="none")["0"], expected)


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
