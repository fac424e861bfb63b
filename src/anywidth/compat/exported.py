"""Graphs that `torch.export` made modules of again."""

from __future__ import annotations

from torch import nn


def is_shape_guard(module: nn.Module) -> bool:
    """Whether a module is the part of an exported graph that checks the shapes of its inputs.

    Its class is private, and importing it would import all of `torch.export`, which takes as long as torch itself.
    """
    module_class = type(module)
    return (module_class.__module__, module_class.__name__) == ("torch.export._unlift", "GuardsFn")
