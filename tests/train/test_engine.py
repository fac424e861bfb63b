import copy

import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.train import FitConfig
from anywidth.train.engine import new_engine
from anywidth.train.sparsity import SparsityConfig
from anywidth.train.step import without_dropout

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def new_net() -> Elastic:
    """Without batch norm, so that parts of a batch give the gradient of the whole."""
    torch.manual_seed(0)
    return Elastic(
        nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)), X[:1]
    ).train()


def engine_of(net, **values):
    return new_engine(net, FitConfig(epochs=1, lr=0.1, **values))


def weights(net) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def after(steps: int = 3, batches=None, **values) -> torch.Tensor:
    net = new_net()
    engine = engine_of(net, **values)
    for _ in range(steps):
        engine.step_(batches or [(X, Y)], (1.0, 0.5), 0.1)
    return weights(net)


def test_micro_batches_make_the_step_of_the_whole_batch():
    halves = [(X[:4], Y[:4]), (X[4:], Y[4:])]
    torch.testing.assert_close(after(batches=halves, accumulate=2), after())


def test_a_gradient_longer_than_the_limit_is_cut_to_it():
    net = new_net()
    engine = engine_of(net, clip=0.01, momentum=0.0, nesterov=False, weight_decay=0.0)
    before = weights(net)
    engine.step_([(X, Y)], (1.0, 0.5), 0.1)
    assert (weights(net) - before).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_the_moving_average_is_one():
    net = new_net()
    engine = engine_of(net, ema=0.8)
    average = weights(net)
    for _ in range(3):
        engine.step_([(X, Y)], (1.0, 0.5), 0.1)
        average = 0.8 * average + 0.2 * weights(net)
    torch.testing.assert_close(weights(engine.parts.ema.net), average)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_keeps_the_weights_in_float32(precision):
    low, full = after(precision=precision), after()
    assert low.dtype == torch.float32
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0.05, atol=0.02)


def test_a_loss_that_is_not_finite_changes_nothing():
    net = new_net()
    engine = engine_of(net)
    before = weights(net)
    losses = engine.step_([(X * torch.inf, Y)], (1.0, 0.5), 0.1)
    assert not losses.isfinite().all()
    assert torch.equal(weights(net), before)


def test_channels_last_computes_the_same():
    x = torch.randn(4, 3, 8, 8)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    found = []
    for last in (False, True):
        net = Elastic(copy.deepcopy(model), x[:1]).train()
        engine = engine_of(net, channels_last=last)
        for _ in range(2):
            engine.step_([(x, Y[:4])], (1.0, 0.5), 0.1)
        assert net.model[0].weight.is_contiguous(memory_format=torch.channels_last) or not last
        found.append(weights(net))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


# --- parameters without a gradient

ALIVE, DEAD = X.abs(), -X.abs()


def rectified_net() -> Elastic:
    """Positive images reach the last layer, negative ones do not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.abs_()
        model[0].bias.zero_()
    return Elastic(model, X[:1]).train()


@pytest.mark.parametrize(
    "values", [{}, {"clip": 0.01}, {"precision": "bfloat16"}, {"precision": "float16"}, {"accumulate": 2}]
)
@pytest.mark.parametrize("skip", [True, False])
def test_a_parameter_without_a_gradient_stays_as_it_is(skip, values):
    net = rectified_net()
    engine = engine_of(net, skip_zero_gradients=skip, weight_decay=0.1, no_decay="nothing", **values)
    count = values.get("accumulate", 1)
    engine.step_([(ALIVE, Y)] * count, (1.0, 0.5), 0.01)
    first, last = net.model[0].weight, net.model[2].bias
    state = engine.parts.optimizer.state
    before = [t.detach().clone() for t in (first, state[first]["momentum_buffer"], last)]
    engine.step_([(DEAD, Y)] * count, (1.0, 0.5), 0.01)
    after = [first, state[first]["momentum_buffer"], last]
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == ([True, True, False] if skip else [False, False, False])


def test_micro_batches_are_looked_at_together():
    """One of them moves the first layer, so it is no parameter without a gradient."""
    found = []
    for skip in (True, False):
        net = rectified_net()
        engine = engine_of(net, skip_zero_gradients=skip, accumulate=2)
        for _ in range(2):
            engine.step_([(ALIVE, Y), (DEAD, Y)], (1.0, 0.5), 0.01)
        found.append(weights(net))
    assert torch.equal(*found)


def test_a_regulariser_still_acts_on_what_has_no_other_gradient():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    nn.init.zeros_(model[2].weight)
    net = Elastic(model, torch.zeros(2, 6)).train()
    engine = engine_of(net, skip_zero_gradients=True, sparsity=SparsityConfig(l1=0.01))
    before = model[1].weight.detach().clone(), model[0].weight.detach().clone()
    engine.step_([(X, Y)], (1.0,), 0.1)
    assert (model[1].weight < before[0]).all()
    assert torch.equal(model[0].weight, before[1])


# --- dropout


class Tells(nn.Dropout):
    """Remembers in which of its passes it acted."""

    def __init__(self, told: list) -> None:
        super().__init__(0.5)
        self.told = told

    def __deepcopy__(self, memo):
        return Tells(self.told)

    def forward(self, x):
        self.told.append((x.shape[1], self.training))
        return super().forward(x)


@pytest.mark.parametrize(("where", "narrow"), [("all", True), ("widest", False)])
def test_dropout_of_the_widest_alone(where, narrow):
    told = []
    net = Elastic(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Tells(told), nn.Linear(8, 3)), X[:1]).train()
    engine = engine_of(net, dropout_on=where)
    told.clear()
    for _ in range(2):
        engine.step_([(X, Y)], (1.0, 0.5, 0.25), 0.1)
    assert told == [(8, True), (4, narrow), (2, narrow)] * 2
    assert all(m.training for width in (1.0, 0.5, 0.25) for m in net.at(width).modules())


def test_dropout_comes_back_after_a_failure():
    net = Elastic(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)), X[:1]).train()
    view = net.at(0.5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), without_dropout(view):
        view(X[:, :5])
    assert net.at(0.5)[1].training


def test_dropout_of_a_network_without_it():
    with pytest.raises(
        RecipeError, match=r"train.dropout_on = 'widest': Sequential has no dropout layer of torch.nn"
    ):
        engine_of(new_net(), dropout_on="widest")


@pytest.mark.slow
def test_compiled_widths_train_alike():
    torch.testing.assert_close(after(compile=True), after(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["ema", "ema_ensemble"])
def test_a_target_that_needs_an_average_says_so(target):
    with pytest.raises(RecipeError, match=rf"target '{target}' learns from a moving average: set train\.ema"):
        engine_of(new_net(), target=target)


def test_the_average_teaches_when_it_is_there():
    assert not torch.equal(after(target="ema", ema=0.5), after(target="widest", ema=0.5))
