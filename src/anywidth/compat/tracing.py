"""Modes that see every operation, and who else is looking."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

DispatchMode = TorchDispatchMode
"""A mode that sees every ATen operation. Documented by torch, in a module without a public name; its counterpart above
autograd has one, `torch.overrides.TorchFunctionMode`."""

without_modes: Callable[[], AbstractContextManager[Any]] = _disable_current_modes
"""A context in which operations are seen by no mode: what a mode computes itself is no part of the model.

In public a mode is only left by leaving its own `with`.
"""

dispatch_mode_count: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many dispatch modes are on: inside one, operations may give tensors of another kind, that must not be kept."""

EXPORT_PACKAGES = ("torch.export", "torch._export")
"""Packages whose code lists the parameters of a module when it is exported: `torch.compiler.is_exporting()` is not true yet
at that time."""

RECURRENT = {
    getattr(torch._VF, name): getattr(torch.ops.aten, name)
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
"""The functions that recurrent layers of torch call -> their operations, with the overloads `input` and `data` (packed)."""


def in_python(operation: Any) -> Callable[..., Any]:
    """An operation written out in Python as smaller ones, as torch does for compilers."""
    return decomposition_table[operation]
