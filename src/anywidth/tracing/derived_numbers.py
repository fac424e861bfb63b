"""Numbers that a model computes from its sizes, once when it is made or at every call: `head_dim ** -0.5`, `sqrt(hidden_size)`.

A network that is built narrow has the number of its own size, so the number must follow the width. It leaves no trace in any shape; but
it is a square root of the size of the very tensor that it multiplies.

    q * self.scale, q (..., 64), scale 0.125 = 64 ** -0.5      the float attribute `scale` goes with the power -0.5 of q's last size
    scores / math.sqrt(self.head_dim)                          computed at every call: the integer `head_dim` has to follow
    embedding * self.embed_scale, a buffer of one element      as the float attribute
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from anywidth.compat.tensors import is_functorch_wrapped
from anywidth.tracing.symbolic_sizes import DimSize, Number, TracedFloat
from anywidth.tracing.trace_state import Derived, Walk

_SCALING = {"mul", "mul_", "__mul__", "__rmul__", "multiply", "div", "div_", "divide", "true_divide", "__truediv__", "__rtruediv__"}  # fmt: skip
_ATTENTION = "scaled_dot_product_attention"
_FEW = 8
"""Roots of smaller sizes are everyday numbers: a factor of 0.5 beside 4 channels is no root of theirs."""


def scaled(walk: Walk, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Learn from one call in the model's code, if it multiplies a tensor by a number."""
    if name == _ATTENTION and isinstance(kwargs.get("scale"), float):
        _observe(walk, kwargs["scale"], args[0], [args[0].ndim - 1])
    if name in ("baddbmm", "baddbmm_") and isinstance(kwargs.get("alpha"), float):
        product = kwargs["batch1"] if "batch1" in kwargs else args[1]
        _observe(walk, kwargs["alpha"], product, [product.ndim - 1])
    if name not in _SCALING or len(args) < 2:
        return
    for number, t in (args[:2], args[1::-1]):
        if isinstance(t, Tensor) and t.ndim and not (isinstance(number, Tensor) and number.ndim):
            _observe(walk, number, t, range(t.ndim))


def _observe(walk: Walk, number: Any, t: Tensor, dims: Iterable[int]) -> None:
    value = _value(number)
    if value is None or (not walk.shadows(t) and walk.summed_sizes.get(t) is None):
        return
    half = isinstance(number, Tensor) and number.element_size() < 4
    found = _size_behind(walk, value, 1e-2 if half else 1e-6, t, dims)
    if found is None:
        return
    size, power = found
    if isinstance(number, TracedFloat):
        walk.derived.append(Derived(number=number.number, size=size, power=power))
    elif isinstance(number, Tensor):
        source = walk.only_source(number)
        if source in walk.buffers:
            path, _, name = source.rpartition(".")
            walk.derived.append(Derived(number=Number(path, name), size=size, power=power))
    _bind_read(walk, size)


def _value(number: Any) -> float | None:
    """A positive number, or the element of a tensor that has one only."""
    if isinstance(number, Tensor):
        readable = not (number.is_meta or number.requires_grad or is_functorch_wrapped(number))
        if not readable or number.numel() != 1 or not number.is_floating_point():
            return None
        number = number.item()
    usable = isinstance(number, int | float) and not isinstance(number, bool) and number > 0
    return float(number) if usable and math.isfinite(number) else None


def _size_behind(
    walk: Walk, value: float, precision: float, t: Tensor, dims: Iterable[int]
) -> tuple[DimSize, float] | None:
    """The size that the value is a square root of, or one over it: of what was summed to give `t`, else of its last such dimension."""
    summed = walk.summed_sizes.get(t)
    candidates = (
        [] if summed is None else [(summed, int(summed.size if isinstance(summed, DimSize) else summed))]
    )
    candidates += [(walk.size(t, d), t.shape[d]) for d in reversed(list(dims))]
    for size, n in candidates:
        for power in (-0.5, 0.5):
            if n >= _FEW and math.isclose(value, n**power, rel_tol=precision):
                return (size, power) if isinstance(size, DimSize) else None
    return None


def _bind_read(walk: Walk, size: DimSize) -> None:
    """Attributes of this value that the code made floats of are this size."""
    for attribute in walk.read_as_float:
        if attribute.value == size.size:
            walk.compared.append((attribute, size))
