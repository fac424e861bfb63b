"""Graphs that `torch.export` made modules of again."""

from __future__ import annotations

from torch import nn


def is_shape_guard(module_class: type[nn.Module]) -> bool:
    """Whether a class is that of the part of an exported graph that checks the shapes of its inputs.

    It is private, and importing it would import all of `torch.export`, which takes as long as torch itself.
    """
    return (module_class.__module__, module_class.__name__) == ("torch.export._unlift", "GuardsFn")
