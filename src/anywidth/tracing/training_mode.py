"""Training and evaluation mode of a model, set and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.fx import GraphModule


def has_one_mode(module: nn.Module) -> bool:
    """Whether a module is a graph of `torch.export`, which runs in the mode in which it was exported; `train` and `eval` raise."""
    return isinstance(module, GraphModule) and "train" in vars(module)


def set_mode_(module: nn.Module, training: bool) -> None:
    """`module.train(training)`, but for parts that have one mode only."""
    if has_one_mode(module) or not any(map(has_one_mode, module.modules())):
        if not has_one_mode(module):
            module.train(training)
        return
    # The method would be called on the children too, and an exported one raises there.
    module.training = training
    for child in module.children():
        set_mode_(child, training)


@contextmanager
def mode_kept(model: nn.Module) -> Iterator[None]:
    """Whatever the modes of the modules become inside is undone."""
    modes = {m: m.training for m in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training and not isinstance(module, torch.jit.ScriptModule):
                set_mode_(module, training)  # a module may do more than to set a flag: some switch graphs
        for module, training in modes.items():
            if module.training != training:
                module.training = training


def forget_computed_(model: nn.Module) -> None:
    """After its weights were changed in place, a model computes anew what it kept of them.

    Some models keep such until their mode is set: the attention biases of several in timm.
    """
    with mode_kept(model):
        set_mode_(model, True)
