"""Searches on a network whose every width can be enumerated."""

import itertools

import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.search import Budget, Evolve, Greedy
from anywidth.space.width import Width

LIMITS = {"macs=60%": 0.6, "macs=30%": 0.3}


def three_groups() -> Elastic:
    """Three groups of eight channels that cost differently."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return Elastic(model, torch.randn(1, 3, 16, 16), divisor=2, minimum=2)


def budget(net, limits=LIMITS) -> Budget:
    return Budget(kind="macs", limits={label: share * net.macs(1.0) for label, share in limits.items()})


def every_width(net) -> list[Width]:
    return [Width(names=net.space.names, kept=kept) for kept in itertools.product((2, 4, 6, 8), repeat=3)]


def additive(net, weights=(1.0, 3.0, 0.3)):
    """An error that every group adds its part to, convex in its channels: greedy steps are good steps."""
    sizes = net.space.full.kept

    def errors(widths):
        return [
            min(
                1.0,
                0.1 + 0.1 * sum(a * ((n / k) - 1) for a, k, n in zip(weights, w.kept, sizes, strict=True)),
            )
            for w in widths
        ]

    return errors


def optimum(net, errors, limit) -> float:
    widths = [w for w in every_width(net) if net.macs(w) <= limit]
    return min(errors(widths))


def searchers(net, limits=None):
    chosen = limits or budget(net)
    return {
        "greedy": Greedy(net, chosen, steps=4),
        "per cost": Greedy(net, chosen, steps=4, criterion="error_per_cost"),
        "evolve": Evolve(net, chosen, population=12, generations=6, parents=4, seed=1),
    }
