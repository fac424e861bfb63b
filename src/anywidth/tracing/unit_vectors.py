"""Sums and norms of activations, and activations divided by their norm: which power of a size a number beside them is.

F.normalize(x, dim=-1) * self.scale * self.g        scale 8 = 64 ** 0.5 beside vectors of norm 1 with 64 entries
x / (x.norm(dim=-1, keepdim=True) * self.scale)     scale 0.125 = 64 ** -0.5 beside their norm
x.pow(2).sum(-1) / self.dim                         a mean written as a sum
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anywidth.tracing.records import Length
from anywidth.tracing.trace_state import Walk

_SUM, _NORM, _UNIT, _INVERSE = -1.0, -0.5, 0.5, 0.5
_STILL = frozenset(
    {
        "add",
        "alias",
        "clamp",
        "clamp_min",
        "detach",
        "expand",
        "maximum",
        "squeeze",
        "unsqueeze",
        "view",
        "_to_copy",
    }
)
"""Operations that leave a sum or a norm what it is, but for a small number that makes it safe to divide by."""
_ROOTS = {"sqrt": _NORM, "rsqrt": _INVERSE}


def follow(walk: Walk, operation: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Note what one operation gives of sums, norms and vectors of norm 1."""
    operation = operation.removesuffix("_")
    if operation in ("linalg_vector_norm", "norm", "sum"):
        _summed(walk, operation, args, kwargs, out)
    elif walk.lengths and isinstance(out, Tensor):
        length = _after(
            operation, args, [walk.lengths.get(a) if isinstance(a, Tensor) else None for a in args[:2]]
        )
        if length is not None:
            walk.lengths[out] = length


def _summed(walk: Walk, operation: str, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    place = 1 if operation == "sum" else 2
    dims = args[place] if len(args) > place else kwargs.get("dim")
    order = 2 if operation == "sum" or len(args) < 2 else args[1]
    if order == 2 and isinstance(dims, list | tuple) and len(dims) == 1 and walk.shadows(args[0]):
        size = walk.size(args[0], dims[0] % args[0].ndim)
        walk.lengths[out] = Length(size, _SUM if operation == "sum" else _NORM)


def _after(operation: str, args: Sequence[Any], lengths: Sequence[Length | None]) -> Length | None:
    """What comes out, of what is known of the first two arguments."""
    if operation in _STILL:
        return lengths[0]
    if operation in _ROOTS and lengths[0] is not None and lengths[0].power == _SUM:
        return Length(lengths[0].size, _ROOTS[operation])
    if operation == "div" and lengths[1] is not None and lengths[1].power == _NORM:
        return Length(lengths[1].size, _UNIT)
    if operation == "mul":  # by a gain, or of activations and one over their norm
        a, b = (length if length is not None and length.power == _UNIT else None for length in lengths)
        return None if (a is None) == (b is None) else a or b
    return None
