"""The settings of a training, and where it stands."""

import math
from dataclasses import dataclass, field

from anywidth.train.optim import Schedule
from anywidth.train.step import Widths


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a training.

    Attributes:
        epochs: passes over the training images.
        lr: peak learning rate.
        momentum: of SGD.
        nesterov: Nesterov's form of the momentum.
        weight_decay: of linear layers and ordinary convolutions; norms, biases and depthwise convolutions
            have none.
        schedule: how the learning rate falls after the warm-up.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        distill: in-place distillation from the widest width; else every width learns from the labels.
        label_smoothing: of the losses that use labels.
        log_every: steps between two lines of the log.

    Raises:
        ValueError: for a number out of its range.
    """

    epochs: int
    lr: float
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    distill: bool = True
    label_smoothing: float = 0.0
    log_every: int = 50

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 <= self.momentum < 1, "0 <= momentum < 1"),
            "nesterov": (self.momentum > 0 or not self.nesterov, "false where momentum is 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number from 0"),
            "warmup_epochs": (0 <= self.warmup_epochs < self.epochs, f"from 0 to below {self.epochs} epochs"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 <= label_smoothing < 1"),
            "log_every": (self.log_every >= 1, "at least 1 step"),
        }
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands after a step.

    Attributes:
        epoch: the present epoch, from 0.
        epochs: of the whole training.
        step: steps done, of all epochs.
        steps: of the whole training.
        widths: of this step.
        losses: one per width.
        lr: learning rate of this step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    widths: Widths = field(repr=False)
    losses: tuple[float, ...]
    lr: float
