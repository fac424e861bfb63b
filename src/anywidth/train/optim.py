"""The optimiser and the learning rate at each iteration."""

import math
from collections.abc import Iterator
from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD, Optimizer

Schedule = Literal["cosine", "linear", "constant"]


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels


def _undecayed(net: nn.Module) -> Iterator[nn.Parameter]:
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim < 2 or _is_depthwise(module):
                yield parameter


def sgd(net: nn.Module, *, lr: float, momentum: float, nesterov: bool, weight_decay: float) -> SGD:
    """SGD that decays the weights of linear layers and ordinary convolutions only.

    Vectors and scalars (biases, affine parameters of norms, layer scales) and depthwise convolutions are not
    decayed.

    Source: the recipes of arXiv 1812.08928 and 1903.05134.
    """
    spared = {id(parameter) for parameter in _undecayed(net)}
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]
    return SGD([group for group in groups if group["params"]], lr=lr, momentum=momentum, nesterov=nesterov)


def lr_factor(step: int, *, steps: int, warmup: int, schedule: Schedule) -> float:
    """Learning rate of one iteration as a part of the peak.

    Rises linearly, (step + 1) / warmup, during the warm-up; then, with t from 0 towards 1 over the remaining
    iterations, is (1 + cos(pi t)) / 2, 1 - t, or 1. Positive at every iteration.

    Args:
        step: iteration, 0 .. steps - 1.
        steps: iterations of the whole training.
        warmup: iterations of the warm-up.
        schedule: "cosine", "linear" or "constant".

    Raises:
        ValueError: for a step that is not part of the training.
    """
    if not 0 <= step < steps:
        raise ValueError(f"learning rate: step {step} is outside a training of {steps} steps")
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / (steps - warmup)
    match schedule:
        case "cosine":
            return (1 + math.cos(math.pi * t)) / 2
        case "linear":
            return 1 - t
        case "constant":
            return 1.0


def set_lr_(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
