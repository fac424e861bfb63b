"""Whole optimiser steps against plain networks cut by hand, in float64: losses, weights, batch-norm statistics.

The oracle knows nothing of views: it slices the wide tensors, runs torch's functional operations, adds up gradients
by autograd through the slices, and applies the update rule of SGD with Nesterov momentum as it is written down.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anywidth.elastic import Elastic
from anywidth.train import FitConfig, policies
from anywidth.train.engine import new_engine

LR, DECAY, MOMENTUM, EPS = 0.3, 0.01, 0.9, 1e-5
RATIOS = {1.0: (8, 12, 16), 0.5: (4, 6, 8), 0.25: (2, 3, 4)}
LISTS = {"large": (8, 12, 10), "middle": (3, 12, 8), "small": (5, 4, 2)}


def wide_model() -> nn.Sequential:
    """A convolution, a depthwise one, a pointwise one, a hidden and a last linear layer; norms after each convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5),
    ).double()  # fmt: skip
    for norm in (model[1], model[4], model[7]):
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, 0.0, 0.3)
    return model


class Oracle:
    """Tensors of the wide network, affine pairs and statistics by label, momentum buffers."""

    def __init__(self, model: nn.Module, widths: dict, *, switchable: bool) -> None:
        self.p = {n: t.detach().clone().requires_grad_() for n, t in model.named_parameters()}
        self.widths, self.switchable, self.v = widths, switchable, {}
        self.statistics = {}
        for label, (a, b, _) in widths.items():
            for n, size in (("1", a), ("4", a), ("7", b)):
                self.statistics[label, n] = (torch.zeros(size).double(), torch.ones(size).double())
                full = size == self.p[f"{n}.weight"].shape[0] and widths[label] == (8, 12, 16)
                if switchable and not full:
                    for kind in ("weight", "bias"):
                        own = self.p[f"{n}.{kind}"].detach()[:size].clone().requires_grad_()
                        self.p[f"{label}/{n}.{kind}"] = own

    def norm(self, x, label, n, size):
        mean = x.mean((0, 2, 3))
        var = ((x - mean.view(1, -1, 1, 1)) ** 2).mean((0, 2, 3))
        count = x.numel() / x.shape[1]
        if (label, n) in self.statistics:
            old_mean, old_var = self.statistics[label, n]
            unbiased = (var * count / (count - 1)).detach()
            self.statistics[label, n] = (0.9 * old_mean + 0.1 * mean.detach(), 0.9 * old_var + 0.1 * unbiased)
        own = f"{label}/{n}.weight" in self.p
        weight, bias = (self.p[f"{label}/{n}.{k}" if own else f"{n}.{k}"][:size] for k in ("weight", "bias"))
        x = (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + EPS).sqrt()
        return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    def logits(self, x, label, channels):
        p, (a, b, c) = self.p, channels
        x = F.conv2d(x, p["0.weight"][:a], padding=1).clamp(min=-1e9)
        x = self.norm(x, label, "1", a).relu()
        x = F.conv2d(x, p["3.weight"][:a], padding=1, groups=a)
        x = self.norm(x, label, "4", a).relu()
        x = F.conv2d(x, p["6.weight"][:b, :a])
        x = self.norm(x, label, "7", b).relu()
        x = F.linear(x.mean((2, 3)), p["11.weight"][:c, :b], p["11.bias"][:c]).relu()
        return F.linear(x, p["13.weight"][:, :c], p["13.bias"])

    def step_(self, x, losses_of):
        """`losses_of(self, x)` -> losses; returns them after one update."""
        losses = losses_of(self, x)
        used = [(n, t) for n, t in self.p.items()]
        gradients = torch.autograd.grad(sum(losses), [t for _, t in used], allow_unused=True)
        with torch.no_grad():
            for (name, t), g in zip(used, gradients, strict=True):
                if g is None:
                    continue
                decays = t.ndim > 1 and name != "3.weight"  # no vectors, no depthwise convolution
                g = g + (DECAY * t if decays else 0)
                self.v[name] = MOMENTUM * self.v[name] + g if name in self.v else g
                t -= LR * (g + MOMENTUM * self.v[name])
        return torch.stack([loss.detach() for loss in losses])


def smoothed(logits, labels, eps, others):
    """Cross-entropy written out, for both conventions of label smoothing."""
    k = logits.shape[1]
    q = torch.full_like(logits, eps / (k - 1) if others else eps / k)
    q[torch.arange(len(labels)), labels] = 1 - eps if others else 1 - eps + eps / k
    return -(q * logits.log_softmax(1)).sum(1).mean()


def batches(count: int):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield (
            torch.randn(6, 2, 7, 7, dtype=torch.float64, generator=generator),
            torch.randint(5, (6,), generator=generator),
        )


def settings(**values) -> FitConfig:
    return FitConfig(epochs=1, lr=LR, weight_decay=DECAY, momentum=MOMENTUM, **values)


def compare(net: Elastic, oracle: Oracle, labels) -> None:
    for name, t in net.model.named_parameters():
        torch.testing.assert_close(
            t, oracle.p[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
    for label in labels:
        view = net.at(label)
        for n in ("1", "4", "7"):
            norm = view.get_submodule(n)
            mean, var = oracle.statistics[label, n]
            torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(norm.running_var, var, rtol=1e-9, atol=1e-11)
            if f"{label}/{n}.weight" in oracle.p:
                torch.testing.assert_close(norm.weight.data, oracle.p[f"{label}/{n}.weight"].data)
                torch.testing.assert_close(norm.bias.data, oracle.p[f"{label}/{n}.bias"].data)


def groups(net: Elastic, channels) -> list[int]:
    """Channels in the order of the space: its groups are the first convolution, the pointwise one, the hidden layer."""
    assert net.space.names == ("0", "6", "11")
    return list(channels)


@pytest.mark.parametrize(
    ("widths", "options", "others"),
    [
        (RATIOS, {}, False),
        (RATIOS, {"label_smoothing": 0.1}, False),
        (LISTS, {"label_smoothing": 0.1, "smoothing_over": "others"}, True),
    ],
    ids=["ratios", "ratios-smoothed", "explicit-lists"],
)
def test_switchable_lists(widths, options, others):
    data = list(batches(3))
    model = wide_model()
    oracle = Oracle(model, widths, switchable=True)
    listed = widths if widths is LISTS else {r: r for r in widths}
    net = Elastic(model, data[0][0], norm="switchable").train()
    net.widths.clear()
    for label, w in listed.items():
        net.list_width_(label, groups(net, w) if widths is LISTS else w)
    assert {k: tuple(net.width(k).kept) for k in widths} == widths
    engine = new_engine(net, settings(target="labels", **options))
    draw = policies.make_draw("listed", net, low=0.25, high=1.0, random=0)
    eps = options.get("label_smoothing", 0.0)
    for x, y in data:
        order = draw(torch.Generator())

        def losses_of(o, x, y=y, order=order):
            return [smoothed(o.logits(x, k, widths[k]), y, eps, others) for k in order]

        expected = oracle.step_(x, losses_of)
        torch.testing.assert_close(engine.step_([(x, y)], order, LR), expected, rtol=1e-9, atol=1e-11)
    compare(net, oracle, widths)


@pytest.mark.parametrize("target", ["widest", "next_wider"])
def test_the_sandwich_rule_with_distillation(target):
    data = list(batches(3))
    model = wide_model()
    oracle = Oracle(model, {1.0: (8, 12, 16), 0.25: (2, 3, 4)}, switchable=False)
    net = Elastic(model, data[0][0], widths=[0.25, 1.0]).train()
    engine = new_engine(net, settings(target=target, label_smoothing=0.1))
    drawn = [(1.0, 0.25, 0.6, 0.37), (1.0, 0.25, 0.9, 0.5), (1.0, 0.25, 0.3, 0.3)]
    # nearest, halves up, never under nine tenths of the exact number (Howard et al.)
    half_up = {0.6: (5, 7, 10), 0.37: (3, 4, 6), 0.9: (7, 11, 14), 0.5: (4, 6, 8), 0.3: (3, 4, 5)}
    half_up |= {1.0: (8, 12, 16), 0.25: (2, 3, 4)}
    for (x, y), order in zip(data, drawn, strict=True):

        def losses_of(o, x, y=y, order=order):
            found = {}
            for w in sorted(dict.fromkeys(order), reverse=True):
                found[w] = o.logits(x, w, half_up[w])
            descending = sorted(order, reverse=True)
            losses = {}
            for i, w in enumerate(descending):
                if i == 0:
                    losses[i] = smoothed(found[w], y, 0.1, False)
                    continue
                teacher = found[1.0] if target == "widest" else found[descending[i - 1]]
                losses[i] = -(teacher.detach().softmax(1) * found[w].log_softmax(1)).sum(1).mean()
            return [losses[descending.index(w)] for w in order]

        if order.count(0.3) == 2 and target == "next_wider":
            continue  # the second 0.3 learns from the first
        expected = oracle.step_(x, losses_of)
        got = engine.step_([(x, y)], order, LR)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    compare(net, oracle, [1.0, 0.25])


def test_the_comparison_sees_a_wrong_weight():
    data = list(batches(1))
    model = wide_model()
    oracle = Oracle(model, {1.0: (8, 12, 16)}, switchable=False)
    net = Elastic(model, data[0][0])
    compare(net, oracle, [1.0])
    with torch.no_grad():
        model[6].weight[3, 2] += 1e-6
    with pytest.raises(AssertionError, match=r"6\.weight"):
        compare(net, oracle, [1.0])
