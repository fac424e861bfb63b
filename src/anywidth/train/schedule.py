"""The learning rate at each iteration."""

import bisect
import math
from collections.abc import Sequence
from typing import Literal

from torch.optim import Optimizer

Schedule = Literal["cosine", "linear", "constant", "multistep", "exponential"]


def lr_factor(
    step: int,
    *,
    steps: int,
    warmup: int,
    schedule: Schedule,
    epoch_steps: int = 1,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    warmup_from: float = 0.0,
) -> float:
    """Learning rate of one iteration as a part of the peak; positive at every iteration.

    Rises linearly during the warm-up, from `warmup_from` to 1: without it (step + 1) / warmup. Then, with t from 0 towards 1 over the remaining
    iterations: "cosine" (1 + cos(pi t)) / 2, "linear" 1 - t, "constant" 1; "multistep" gamma to the number of
    milestones passed and "exponential" gamma to the number of whole epochs passed, counted from the start.

    Args:
        step: iteration, 0 .. steps - 1.
        steps: iterations of the whole training.
        warmup: iterations of the warm-up.
        schedule: how it falls.
        epoch_steps: iterations of one epoch.
        milestones: epochs, increasing, for "multistep".
        warmup_from: part of the peak before the first iteration.
        gamma: factor of "multistep" and "exponential".

    Raises:
        ValueError: for a step that is not part of the training.
    """
    if not 0 <= step < steps:
        raise ValueError(f"learning rate: step {step} is outside a training of {steps} steps")
    if step < warmup:
        return warmup_from + (1 - warmup_from) * (step + 1) / warmup
    # steps 6, warmup 2, cosine: 0.5, 1 | 1, 0.854, 0.5, 0.146. The last value is above 0.
    t = (step - warmup) / (steps - warmup)
    match schedule:
        case "cosine":
            return (1 + math.cos(math.pi * t)) / 2
        case "linear":
            return 1 - t
        case "constant":
            return 1.0
        case "multistep":
            # milestones (2, 3), 10 steps an epoch, gamma 0.1: 1 up to step 19, 0.1 from 20, 0.01 from 30.
            return gamma ** bisect.bisect_right([m * epoch_steps for m in milestones], step)
        case "exponential":
            return gamma ** (step // epoch_steps)


def set_lr_(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
