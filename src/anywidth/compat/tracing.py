"""Modes that see every operation, and who else is looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

DispatchMode = TorchDispatchMode
"""A mode that sees every ATen operation. Documented by torch, in a module without a public name; its counterpart above
autograd has one, `torch.overrides.TorchFunctionMode`."""

without_modes: Callable[[], AbstractContextManager[Any]] = _disable_current_modes
"""A context in which operations are seen by no mode: what a mode computes itself is no part of the model.

In public a mode is only left by leaving its own `with`.
"""


@contextmanager
def unseen() -> Iterator[None]:
    """A context in which no mode of either kind sees what is done, for code that runs among the model's own.

    `DisableTorchFunction` is named in torch's notes on extending it, by the name of its private module.
    """
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


dispatch_mode_count: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""How many dispatch modes are on: inside one, operations may give tensors of another kind, that must not be kept."""

EXPORT_PACKAGES = ("torch.export", "torch._export")
"""Packages whose code lists the parameters of a module when it is exported: `torch.compiler.is_exporting()` is not true yet
at that time."""


def is_mutable(operation: Any) -> bool:
    """Whether an ATen operation writes to any of its arguments. Torch prints schemas in public, and reads them in private."""
    return operation._schema.is_mutable


def written_tensors(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an ATen operation writes to: of `add_(a!, b)` the first one."""
    written: list[Tensor] = []
    for i, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            values = value if isinstance(value, list | tuple) else [value]
            written += [t for t in values if isinstance(t, Tensor)]
    return written


def reads_a_number(operation: Any) -> bool:
    """Whether an ATen operation hands a number from a tensor to Python: `bool(t)`, `t.item()`, `float(t)`, `if t:` all end in this one."""
    return operation is torch.ops.aten._local_scalar_dense.default


def is_random(operation: Any) -> bool:
    """Whether an ATen operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in operation.tags


def attention_by_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by matrix products and a softmax.

    In public the kernel is chosen by `sdpa_kernel`, a setting of the whole process: threads that set it at the same time leave
    it wrong.
    """
    out, _ = torch._scaled_dot_product_attention_math(  # pyright: ignore[reportPrivateImportUsage]
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return out


RECURRENT = {
    getattr(torch._VF, name): getattr(torch.ops.aten, name)
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
"""The functions that recurrent layers of torch call -> their operations, with the overloads `input` and `data` (packed)."""


def in_python(operation: Any) -> Callable[..., Any]:
    """An operation written out in Python as smaller ones, as torch does for compilers."""
    return decomposition_table[operation]
