"""The settings of the training of gates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from anywidth.cost.cost_model import Convention
from anywidth.gating.losses import Hard

Method = Literal["expected", "gumbel"]


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Settings of the training of gates.

    Attributes:
        method: "expected": the loss that is expected over all routes, none of which is differentiated; "gumbel": as published, one
            route for each input drawn by straight-through Gumbel softmax, through the masked network.
        target: mean multiply-adds to meet; None for no target.
        epochs, lr, momentum, weight_decay: of SGD with Nesterov momentum, cosine schedule.
        sparsify: weight of the loss that sends easy inputs through the narrowest width; by default 1 with "gumbel", else 0.
        cost: weight of the squared cost: of its relative distance from the target, or without a target of its share of the
            widest route's (with "gumbel" of 10^9 multiply-adds). By default 0.5 with "gumbel", else 0, as the bias that is
            chosen afterwards meets the target.
        entropy: of "expected": weight of the entropy of the choices. The best logits are then minus the losses that are to be
            expected of each route, divided by it, so that a bias proportional to the costs trades one for the other rightly.
        hard: "widest" or "narrowest": where inputs go that even the widest width gets wrong.
        smoothing: of labels, in all losses of "gumbel" and in the sparsifying one of "expected".
        double_softmax: take probabilities for logits in the sparsifying loss, as the published code does.
        temperature: of the Gumbel softmax.
        convention: of multiply-adds.

    Raises:
        ValueError: for a number out of its range.
    """

    method: Method = "expected"
    target: float | None = None
    epochs: int = 10
    lr: float = 0.08
    momentum: float = 0.9
    weight_decay: float = 0.0
    sparsify: float | None = None
    cost: float | None = None
    entropy: float = 0.1
    hard: Hard = "widest"
    smoothing: float = 0.1
    double_softmax: bool = False
    temperature: float = 1.0
    convention: Convention = "anywidth"

    def __post_init__(self) -> None:
        ranges = {
            "method": (self.method in get_args(Method), " or ".join(get_args(Method))),
            "hard": (self.hard in get_args(Hard), " or ".join(get_args(Hard))),
            "epochs": (self.epochs >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 < self.momentum < 1, "0 < momentum < 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number from 0"),
            "sparsify": (self.sparsify is None or 0 <= self.sparsify < math.inf, "a number from 0"),
            "cost": (self.cost is None or 0 <= self.cost < math.inf, "a number from 0"),
            "entropy": (0 <= self.entropy < math.inf, "a number from 0"),
            "smoothing": (0 <= self.smoothing < 1, "0 <= smoothing < 1"),
            "temperature": (0 < self.temperature < math.inf, "a number above 0"),
            "target": (self.target is None or self.target > 0, "a number of multiply-adds"),
        }
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"gate.{name} = {getattr(self, name)!r}: expected {expected}")

    @property
    def weights(self) -> tuple[float, float]:
        """Of the sparsifying loss and of the cost."""
        default = (1.0, 0.5) if self.method == "gumbel" else (0.0, 0.0)
        return (
            default[0] if self.sparsify is None else self.sparsify,
            default[1] if self.cost is None else self.cost,
        )
