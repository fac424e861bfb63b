"""Whole steps of stage I of dynamic slimmable networks against a network cut by hand, in float64.

The oracle slices the wide tensors and runs torch's functional operations. It knows nothing of views, and its moving
average is a dictionary.
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from anywidth.elastic import Elastic
from anywidth.errors import StatisticsError, WidthError
from anywidth.models import DSMBNet
from anywidth.seeds import generator
from anywidth.space.joined_groups import joined
from anywidth.train import FitConfig, evaluate, fit_, listed_sandwich, sandwich
from anywidth.train.ema import Ema
from anywidth.train.engine import new_engine
from anywidth.views.trial_runs import probed_space
from interrupted import StopError, stop_after, weights

LR, DECAY, MOMENTUM, AVERAGE, EPS = 0.2, 0.05, 0.9, 0.9, 1e-5
BLOCKS, STRIDES, DROPOUT = (1, 2), (1, 2), 0.3
WIDTHS = {0: (4, 4, 4), 1: (4, 4, 6), 2: (4, 4, 8), 3: (4, 4, 10), "largest": (6, 8, 10)}
DRAWS = [
    (("largest", 1, 2, 0), ("largest", 2, 3, 0)),
    (("largest", 3, 3, 0), ("largest", 1, 1, 0)),
    (("largest", 2, 1, 0), ("largest", 3, 2, 0)),
]


def new_net(dtype: torch.dtype = torch.float64) -> Elastic:
    torch.manual_seed(0)
    model = DSMBNet(
        3,
        channels=WIDTHS["largest"],
        blocks=BLOCKS,
        strides=STRIDES,
        stem_stride=1,
        gate="tanh",
        dropout=DROPOUT,
    ).to(dtype)
    x, freeze = torch.zeros(1, 3, 8, 8, dtype=dtype), ["*.attention.squeeze.reduce"]
    groups = {"stem": "stem.*", "stages.0": "stages.0.*", "stages.1": "stages.1.*"}
    space = joined(probed_space(model, x, freeze), groups)
    return Elastic(model, x, widths=WIDTHS, freeze=freeze, space=space).train()


class Oracle:
    """Wide tensors `p`, statistics by label `s`, and the moving average of both, `p_mean` and `s_mean`."""

    def __init__(self, net: Elastic) -> None:
        self.p = {n: t.detach().clone().requires_grad_() for n, t in net.model.named_parameters()}
        norms = [n.removesuffix(".running_mean") for n, _ in net.model.named_buffers() if n.endswith("mean")]
        sizes = {n: self.p[f"{n}.weight"].shape[0] for n in norms}
        self.s = {
            (label, n): [torch.zeros(size).double(), torch.ones(size).double()]
            for label in WIDTHS
            for n, size in sizes.items()
        }
        self.p_mean, self.s_mean = copy.deepcopy(self.p), copy.deepcopy(self.s)
        self.v = {}

    def norm(self, x, label, n, average):
        c = x.shape[1]
        p, s = (self.p_mean, self.s_mean) if average else (self.p, self.s)
        if average:
            mean, var = (t[:c] for t in s[label, n])
        else:
            mean, count = x.mean((0, 2, 3)), x.numel() // c
            var = ((x - mean.view(-1, 1, 1)) ** 2).mean((0, 2, 3))
            for old, new in zip(s[label, n], (mean, var * count / (count - 1)), strict=True):
                old[:c] = 0.9 * old[:c] + 0.1 * new.detach()
        x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + EPS).sqrt()
        return x * p[f"{n}.weight"][:c].view(-1, 1, 1) + p[f"{n}.bias"][:c].view(-1, 1, 1)

    def attention(self, x, n, p):
        c = x.shape[1]
        y = x.mean((2, 3), keepdim=True)
        y = F.conv2d(y, p[f"{n}.squeeze.reduce.weight"][:, :c], p[f"{n}.squeeze.reduce.bias"]).relu()
        y = F.conv2d(y, p[f"{n}.expand.weight"][:c], p[f"{n}.expand.bias"][:c])
        return x * (1 + y.tanh())

    def logits(self, x, label, *, average=False, dropout=0.0):
        p, (a, *stages) = self.p_mean if average else self.p, WIDTHS[label]
        x = F.conv2d(x, p["stem.conv.weight"][:a], padding=1)
        x = F.silu(self.norm(x, label, "stem.norm", average))
        for stage, out in enumerate(stages):
            for block in range(BLOCKS[stage]):
                n, c = f"stages.{stage}.{block}", x.shape[1]
                stride = STRIDES[stage] if block == 0 else 1
                x = F.conv2d(x, p[f"{n}.depthwise.conv.weight"][:c], None, stride, 1, groups=c)
                x = F.silu(self.norm(x, label, f"{n}.depthwise.norm", average))
                x = self.attention(x, f"{n}.depthwise.attention", p)
                x = F.conv2d(x, p[f"{n}.pointwise.conv.weight"][:out, :c])
                x = F.silu(self.norm(x, label, f"{n}.pointwise.norm", average))
        x = F.dropout(x.mean((2, 3)), dropout)
        return F.linear(x, p["classifier.weight"][:, : x.shape[1]], p["classifier.bias"])

    def losses(self, x, y, widths, redrawn, dropout, ensemble):
        with torch.no_grad():
            largest, *inner = (self.logits(x, w, average=True).softmax(1) for w in redrawn[:-1])
        wide = self.logits(x, widths[0], dropout=dropout).log_softmax(1)
        found = [-(0.9 * wide[torch.arange(len(y)), y] + 0.1 * wide.mean(1)).mean()]
        for place, width in enumerate(widths[1:], 1):
            both = ensemble and place == len(widths) - 1
            target = (largest + sum(inner)) / 3 if both else largest
            found.append(-(target * self.logits(x, width).log_softmax(1)).sum(1).mean())
        return found

    def step_(self, *arguments):
        losses = self.losses(*arguments)
        gradients = torch.autograd.grad(sum(losses), list(self.p.values()))
        skipped = set()
        with torch.no_grad():
            for (name, t), g in zip(self.p.items(), gradients, strict=True):
                if not g.any():
                    skipped.add(name)
                    continue
                g = g + (DECAY * t if t.ndim > 1 else 0)
                self.v[name] = MOMENTUM * self.v[name] + g if name in self.v else g
                t -= LR * (g + MOMENTUM * self.v[name])
                self.p_mean[name].lerp_(t, 1 - AVERAGE)
            for name in skipped:
                self.p_mean[name].lerp_(self.p[name], 1 - AVERAGE)
            for key, mean in self.s_mean.items():
                for old, new in zip(mean, self.s[key], strict=True):
                    old.copy_(AVERAGE * old + (1 - AVERAGE) * new)
        return torch.stack([loss.detach() for loss in losses]), skipped


def settings(**values) -> FitConfig:
    common = {"epochs": 4, "lr": LR, "weight_decay": DECAY, "momentum": MOMENTUM, "no_decay": "vectors"}
    stage = {"target": "ema_ensemble", "ema": AVERAGE, "label_smoothing": 0.1, "skip_zero_gradients": True}
    return FitConfig(**{**common, **stage, "dropout_on": "widest", **values})


def batch(seed: int):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 3, 8, 8, generator=random, dtype=torch.float64)
    return x, torch.randint(3, (6,), generator=random)


def compare(net: Elastic, parameters, statistics) -> None:
    close = {"rtol": 1e-9, "atol": 1e-9}
    for name, t in net.model.named_parameters():
        torch.testing.assert_close(t, parameters[name], **close, msg=lambda m, n=name: f"{n}: {m}")
    for label in WIDTHS:
        for name, norm in net.at(label).named_modules():
            if (label, name) in statistics:
                size = len(norm.running_mean)
                for found, expected in zip(
                    (norm.running_mean, norm.running_var), statistics[label, name], strict=True
                ):
                    torch.testing.assert_close(
                        found, expected[:size], **close, msg=lambda m, k=(label, name): f"{k}: {m}"
                    )


@pytest.mark.parametrize("target", ["ema_ensemble", "ema"])
@pytest.mark.parametrize("dropout", [0.0, DROPOUT])
@pytest.mark.parametrize("trunk", [None, "stages.0"])
def test_steps_of_stage_one(target, dropout, trunk):
    net = new_net()
    net.model.dropout.p = dropout
    oracle = Oracle(net)
    engine = new_engine(net, settings(target=target, trunk=trunk))
    assert engine.redraws == (target == "ema_ensemble")
    for number, (widths, redrawn) in enumerate(DRAWS):
        x, y = batch(number)
        torch.manual_seed(number)
        expected, skipped = oracle.step_(x, y, widths, redrawn, dropout, target == "ema_ensemble")
        torch.manual_seed(number)
        losses = engine.step_([(x, y)], widths, LR, 0.0, redrawn)
        torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)
        # Attentions that are the identity pass no gradient to what they squeeze.
        assert len(skipped) == (6 if number == 0 else 0)
        assert engine.parts.ema is not None
        compare(net, oracle.p, oracle.s)
        compare(engine.parts.ema.net, oracle.p_mean, oracle.s_mean)


def test_the_comparison_sees_a_wrong_target():
    net, (x, y) = new_net(), batch(0)
    oracle, (widths, redrawn) = Oracle(net), DRAWS[0]
    engine = new_engine(net, settings())
    expected, _ = oracle.step_(x, y, widths, ("largest", 1, 1, 0), 0.0, True)
    net.model.dropout.p = 0.0
    losses = engine.step_([(x, y)], widths, LR, 0.0, redrawn)
    torch.testing.assert_close(losses[:3], expected[:3], rtol=1e-9, atol=1e-9)
    assert (losses[3] - expected[3]).abs() > 1e-6


def test_micro_batches_learn_from_one_ensemble(monkeypatch):
    asked = []
    real = Ema.logits
    monkeypatch.setattr(
        Ema, "logits", lambda self, x, width=None: asked.append(width) or real(self, x, width)
    )
    engine = new_engine(new_net(), settings(accumulate=2))
    x, y = batch(0)
    engine.step_([(x[:3], y[:3]), (x[3:], y[3:])], *DRAWS[0][:1], LR, 0.0, DRAWS[0][1])
    assert asked == [None, 2, 3] * 2


def test_widths_that_are_not_listed_cannot_teach():
    ema = Ema(new_net(), 0.9)
    x, _ = batch(0)
    assert ema.logits(x, 1).shape == (6, 3)
    with pytest.raises(
        WidthError, match=r"no batch-norm statistics at width 0.6, which is not listed.*listed_sandwich"
    ):
        ema.logits(x, 0.6)


def test_an_average_that_may_teach_is_not_evaluated_without_statistics():
    ema = Ema(new_net(), 0.9)
    assert ema.logits(batch(0)[0], 1).isfinite().all()
    assert not ema.net.has_statistics(1)
    with pytest.raises(StatisticsError, match="width 1 has no batch-norm statistics"):
        evaluate(ema.net, [batch(0)], [1])


# --- whole trainings


class Images:
    """Three batches of each epoch, in micro-batches."""

    def __init__(self, epoch: int, first: int) -> None:
        self.seeds = [10 * epoch + k for k in range(3)][first:]

    def __len__(self):
        return len(self.seeds)

    def __iter__(self):
        return (batch(seed) for seed in self.seeds)


def train(run, draw=None, **options):
    net = new_net()
    run.mkdir(exist_ok=True)
    fit_(
        net, Images, draw or listed_sandwich(named=net.widths, widest="largest", narrowest=0),
        settings(lr=0.05), seed=5, run=run, **options,
    )  # fmt: skip
    return net


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    whole = train(tmp_path / "whole")
    with pytest.raises(StopError):
        train(tmp_path / "cut", report=stop_after(8))
    assert weights(train(tmp_path / "cut")) == weights(whole)


def test_the_ensemble_is_drawn_apart_from_the_widths_of_a_step(tmp_path, monkeypatch):
    seen, asked = [], []
    real = Ema.logits
    monkeypatch.setattr(
        Ema, "logits", lambda self, x, width=None: asked.append(width) or real(self, x, width)
    )
    train(tmp_path / "run", report=lambda progress: seen.append(progress.widths))
    draw = listed_sandwich(named=new_net().widths, widest="largest", narrowest=0)
    expected = []
    for step in range(12):
        inner = draw(generator(5, step, 3))[1:3]
        expected += [None, *dict.fromkeys(inner)]  # a width that is drawn twice runs once
        assert seen[step] == draw(generator(5, step, 1))
    assert asked == expected
    assert any(step[1:3] != draw(generator(5, n, 3))[1:3] for n, step in enumerate(seen))


def test_random_ratios_have_no_statistics_to_teach_with(tmp_path):
    with pytest.raises(WidthError, match="which is not listed"):
        train(tmp_path / "run", sandwich(low=0.25))
