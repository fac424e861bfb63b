"""Numbers that a model computes from its sizes, once when it is made or at every call: `head_dim ** -0.5`, `sqrt(hidden_size)`.

A network that is built narrow has the number of its own size, so the number must follow the width. It leaves no trace in any shape; but
it is a square root of the size of the very tensor that it multiplies. Other numbers may be that by chance (a residual factor of 0.125 beside 64
channels), so three places only are taken for such: what an embedding gives times a root; a query or scores over the root of the size that a
product of two activations sums; and activations divided by their norm (`unit_vectors`) times the root of their size.

    q * self.scale, q (..., 64), scale 0.125 = 64 ** -0.5      the float attribute `scale` goes with the power -0.5 of q's last size
    scores / math.sqrt(self.head_dim)                          computed at every call: the integer `head_dim` has to follow
    embedding * self.embed_scale, a buffer of one element      as the float attribute
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from anywidth.compat.tensors import is_functorch_wrapped
from anywidth.tracing.symbolic_sizes import DimSize, Number, TracedFloat, TracedInt
from anywidth.tracing.trace_state import Derived, Walk

_TIMES = {"mul", "mul_", "__mul__", "__rmul__", "multiply"}
_OVER = {"div", "div_", "divide", "true_divide", "__truediv__"}
_ATTENTION = "scaled_dot_product_attention"
_OF_SIZES = ("scal", "norm", "factor", "temp", "sqrt", "root")
"""Parts of the names of floats that models compute from their sizes; a share of dropout may happen to look like one."""
_FEW = 8
"""Roots of smaller sizes are everyday numbers: a factor of 0.5 beside 4 channels is no root of theirs."""


def scaled(walk: Walk, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Learn from one call in the model's code, if it multiplies a tensor by a number."""
    if name == _ATTENTION and isinstance(kwargs.get("scale"), float):
        _observe(walk, kwargs["scale"], args[0] if args else kwargs["query"], -0.5, sure=True)
    if name in ("baddbmm", "baddbmm_") and isinstance(kwargs.get("alpha"), float):
        product = kwargs["batch1"] if "batch1" in kwargs else args[1]
        _observe(walk, kwargs["alpha"], product, -0.5, sure=not walk.is_weight(product))
    if name not in _TIMES | _OVER or len(args) < 2:
        return
    for number, t in (args[:2], args[1::-1]) if name in _TIMES else (args[1::-1],):
        if isinstance(t, Tensor) and t.ndim and not (isinstance(number, Tensor) and number.ndim):
            sign = 1 if name in _TIMES else -1
            length = walk.lengths.get(t)
            power = 0.5 if walk.is_embedded(t) else -0.5 if length is None else length.power
            _observe(walk, number, t, sign * power, sure=walk.is_embedded(t) or length is not None)


def _observe(walk: Walk, number: Any, t: Tensor, power: float, *, sure: bool) -> None:
    """Note a number if it is this power of a size of `t`: for good, or until a product of activations sums that size."""
    value = _value(number)
    if value is None or not (walk.shadows(t) or t in walk.summed_sizes or t in walk.lengths):
        return
    half = isinstance(number, Tensor) and number.element_size() < 4
    precision = 1e-2 if half else 1e-6
    _bind_read(walk, value, power, precision, t)
    size = _size_behind(walk, value, power, precision, t)
    if size is None:
        return
    source = walk.only_source(number) if isinstance(number, Tensor) else None
    if isinstance(number, TracedInt) and abs(power) == 1:
        walk.compared.append((number.source, size))
    elif isinstance(number, TracedFloat):
        if t not in walk.lengths and not any(part in number.number.name for part in _OF_SIZES):
            return
        walk.derived.append(Derived(number=number.number, size=size, power=power, sure=sure))
    elif source is not None and source in walk.buffers:
        path, _, name = source.rpartition(".")
        walk.derived.append(Derived(number=Number(path, name), size=size, power=power, sure=sure))


def _value(number: Any) -> float | None:
    """A positive number, or the element of a tensor that has one only."""
    if isinstance(number, Tensor):
        readable = not (number.is_meta or number.requires_grad or is_functorch_wrapped(number))
        if not readable or number.numel() != 1 or not number.is_floating_point():
            return None
        number = number.item()
    usable = isinstance(number, int | float) and not isinstance(number, bool) and number > 0
    return float(number) if usable and math.isfinite(number) else None


def _sizes(walk: Walk, t: Tensor) -> list[tuple[DimSize | int, int]]:
    """What was summed to give `t`, or else its own sizes from the last on."""
    if (length := walk.lengths.get(t)) is not None:
        return [(length.size, int(length.size) if isinstance(length.size, int) else length.size.size)]
    summed = walk.summed_sizes.get(t)
    sizes = [] if summed is None else [summed]
    sizes += [walk.size(t, d) for d in reversed(range(t.ndim))]
    return [(s, s.size if isinstance(s, DimSize) else int(s)) for s in sizes]


def _size_behind(walk: Walk, value: float, power: float, precision: float, t: Tensor) -> DimSize | None:
    """The size of which the value is this power."""
    for size, n in _sizes(walk, t):
        if n >= _FEW and math.isclose(value, n**power, rel_tol=precision):
            return size if isinstance(size, DimSize) else None
    return None


def _bind_read(walk: Walk, value: float, power: float, precision: float, t: Tensor) -> None:
    """An attribute that the code made a float of, and that is the size behind the value, is this size."""
    if not walk.read_as_float:
        return
    sizes = [
        s for p in sorted({-0.5, 0.5, power}) if (s := _size_behind(walk, value, p, precision, t)) is not None
    ]
    walk.compared += [(a, s) for s in sizes for a in walk.read_as_float if a.value == s.size]
