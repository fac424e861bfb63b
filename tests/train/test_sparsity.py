"""Sparsity terms against an independent step in float64, and against the definitions of their gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.train import FitConfig
from anywidth.train.engine import new_engine
from anywidth.train.sparsity import Sparsity, SparsityConfig, histogram, scales_of, slopes

X = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(12) % 4
LR, DECAY, L1 = 0.1, 1e-2, 3e-2


def model() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ).double()  # fmt: skip
    for norm in (net[1], net[4]):
        nn.init.uniform_(norm.weight, -1, 1)
    with torch.no_grad():
        net[1].weight[2] = 0  # feels nothing from the term
    return net


def engine_of(net, sparsity, **values):
    values = {"momentum": 0.9, "nesterov": False, "weight_decay": DECAY, "no_decay": "nothing"} | values
    return new_engine(net, FitConfig(epochs=10, lr=LR, target="labels", sparsity=sparsity, **values))


def oracle(steps: int, l1: float) -> dict[str, torch.Tensor]:
    """SGD with momentum written out; the penalty enters as a gradient, before decay and momentum."""
    net = model().train()
    weights = dict(net.named_parameters())
    velocity = {n: torch.zeros_like(p) for n, p in weights.items()}
    for _ in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(net(X), Y), list(weights.values()))
        with torch.no_grad():
            for (name, p), g in zip(weights.items(), gradients, strict=True):
                if name in ("1.weight", "4.weight"):
                    g = g + l1 * ((p > 0).double() - (p < 0).double())
                velocity[name] = 0.9 * velocity[name] + g + DECAY * p
                p -= LR * velocity[name]
    return {n: p.detach() for n, p in weights.items()}


def test_two_steps_equal_the_formula():
    net = Elastic(model(), X).train()
    engine = engine_of(net, SparsityConfig(l1=L1))
    for _ in range(2):
        losses = engine.step_([(X, Y)], (1.0,), LR)
    expected, without = oracle(2, L1), oracle(2, 0.0)
    for name, p in net.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(net.model[1].weight, without["1.weight"])
    reference = oracle(1, L1)
    other = model().train()
    other.load_state_dict({**other.state_dict(), **reference})
    torch.testing.assert_close(
        losses[0], F.cross_entropy(other(X), Y).detach()
    )  # the term is not in the loss


def test_the_first_step_differs_by_the_sign_alone():
    changes = []
    for l1 in (0.0, L1):
        net = Elastic(model(), X).train()
        engine_of(net, SparsityConfig(l1=l1)).step_([(X, Y)], (1.0,), LR)
        changes.append(net.model[1].weight.detach().clone())
    before = model()[1].weight.detach()
    torch.testing.assert_close(changes[1] - changes[0], -LR * L1 * before.sign())


@pytest.mark.parametrize("values", [{"clip": 1e-3}, {"accumulate": 2}, {"precision": "float16"}])
def test_nothing_weakens_or_repeats_the_term(values):
    """Clipping, micro-batches and the scale of a half-precision loss act on the loss alone."""
    batches = [(X[:6], Y[:6]), (X[6:], Y[6:])] if "accumulate" in values else [(X, Y)]
    changes = []
    for l1 in (0.0, L1):
        net = Elastic(model().float(), X.float()).train()
        engine = engine_of(net, SparsityConfig(l1=l1), **values)
        engine.step_([(x.float(), y) for x, y in batches], (1.0,), LR)
        changes.append(net.model[1].weight.detach().clone())
    torch.testing.assert_close(
        changes[1] - changes[0], -LR * L1 * model()[1].weight.detach().float().sign(), rtol=1e-3, atol=1e-6
    )


def test_scales_that_no_width_of_the_step_uses_are_pressed_too():
    net = Elastic(model(), X, widths=[0.5, 1.0]).train()
    before = net.model[1].weight.detach().clone()
    engine = engine_of(net, SparsityConfig(l1=L1), weight_decay=0.0)
    engine.step_([(X, Y)], (0.5,), LR)
    torch.testing.assert_close(net.model[1].weight.detach()[4:], (before - LR * L1 * before.sign())[4:])


def test_norms_by_pattern_epochs_and_first_value():
    net = Elastic(model(), X)
    assert list(scales_of(net)) == ["1.weight", "4.weight"]
    assert list(scales_of(net, "4")) == ["4.weight"]
    config = SparsityConfig(l1=L1, norms="4", start=2, stop=5, init=0.5)
    Sparsity(net, config).init_()
    assert (net.model[4].weight == 0.5).all()
    assert not (net.model[1].weight == 0.5).any()
    assert [config.acts(e) for e in (0, 1.99, 2, 4.99, 5, 9)] == [False, False, True, True, False, False]
    for epoch, slope in ((0.0, None), (3.0, L1)):
        net.zero_grad()
        Sparsity(net, config).add_(epoch)
        assert net.model[1].weight.grad is None
        if slope is None:
            assert net.model[4].weight.grad is None
        else:
            assert (net.model[4].weight.grad == slope).all()
    with pytest.raises(RecipeError, match=r"'bn'.*no batch norm with a scale has such a path"):
        Sparsity(net, SparsityConfig(l1=L1, norms="bn"))


def test_switchable_norms_have_scales_of_their_own():
    net = Elastic(model(), X, widths=[0.5, 1.0], norm="switchable")
    assert len(scales_of(net)) == 4
    assert len(scales_of(net, "4")) == 2


def test_polarization_is_the_gradient_of_its_definition():
    scales = [nn.Parameter(p.detach().clone()) for p in (model()[1].weight, model()[4].weight)]
    with torch.no_grad():
        scales[0][2] = 0.3
    flat = torch.cat([s.flatten() for s in scales])
    (1.2 * flat.abs().sum() - (flat - flat.mean()).abs().sum()).backward()
    for s, slope in zip(scales, slopes(scales, 1.2), strict=True):
        torch.testing.assert_close(slope, s.grad)
    assert any(not torch.equal(a, b) for a, b in zip(slopes(scales), slopes(scales, 1.2), strict=True))


def test_group_lasso_is_the_gradient_of_its_definition():
    """A residual stream: one channel is made by two layers, and its norm is over the weights of both."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x)
            return self.c((x + self.b(x)).mean((2, 3)))

    torch.manual_seed(0)
    net = Elastic(Residual().double(), X[:1])
    reference = copy.deepcopy(net.model)
    squares = reference.a.weight.square().sum((1, 2, 3)) + reference.b.weight.square().sum((1, 2, 3))
    (0.7 * squares.sqrt().sum()).backward()
    Sparsity(net, SparsityConfig(group_lasso=0.7)).add_(0.0)
    torch.testing.assert_close(net.model.a.weight.grad, reference.a.weight.grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(net.model.b.weight.grad, reference.b.weight.grad, rtol=1e-6, atol=1e-9)
    assert net.model.c.weight.grad is None


def test_histogram_counts_every_scale():
    found = histogram([torch.tensor([0.0, 0.005, -0.02]), torch.tensor([0.4])])
    assert (found["near_zero"], found["max"]) == (0.5, pytest.approx(0.4))
    assert sum(found["histogram"]["counts"]) == 4
    assert found["histogram"]["counts"][0] == 2
    assert found["histogram"]["counts"][-1] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"l1": -1}, "sparsity.l1 = -1: expected a number from 0"),
        ({"l1": 1e-4, "start": 3, "stop": 2}, "sparsity.stop = 2: expected epochs after start = 3"),
        ({"polarization": 1.0}, "set that too"),
        ({"l1": float("nan")}, "sparsity.l1 = nan"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        SparsityConfig(**values)
