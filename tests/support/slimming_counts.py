"""Parameters and multiply-adds of a network, counted from the sizes that pass through it."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn


def macs(model: nn.Module, image_size: int = 32) -> int:
    """Of convolutions and linear layers for one image: output elements times what each of them reads."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            assert module.groups == 1
            assert inputs[0].shape[1] == module.weight.shape[1]
            total += prod(output.shape[1:]) * prod(module.kernel_size) * inputs[0].shape[1]
        elif isinstance(module, nn.Linear):
            total += prod(output.shape[1:]) * inputs[0].shape[-1]
        else:
            assert not list(module.parameters(recurse=False)) or isinstance(
                module, nn.BatchNorm1d | nn.BatchNorm2d
            )

    like = next(model.parameters())
    hooks = [m.register_forward_hook(count) for m in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size, dtype=like.dtype, device=like.device))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def norms(model: nn.Module) -> tuple[int, int]:
    """Batch norms, and their channels in all."""
    found = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    return len(found), sum(m.num_features for m in found)


def sizes(build: Any, *args: Any, image_size: int = 32, **kwargs: Any) -> tuple[int, int]:
    """Parameters and multiply-adds of a network, without memory for it."""
    with torch.device("meta"):
        model = build(*args, **kwargs)
    return params(model), macs(model, image_size)
