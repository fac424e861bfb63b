"""Rules of writes by number: index_add, scatter, index_put and their like, as graph networks and expert layers use them.

Along the dimension that is addressed by number channels stay; along the others what is written and what it is written to are
the same channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.tracing.trace_state import Walk


def _beside(walk: Walk, tensors: Iterable[Tensor], dims: Iterable[int], ndim: int) -> list[list[Tensor]]:
    """Shadows of each tensor without those along `dims`, which keep their size."""
    kept = []
    for t in tensors:
        for s in walk.shadows(t):
            for d in dims:
                walk.ledger.rigid(s, d, "channels are written by number", walk.where)
        kept.append([s for s in walk.shadows(t) if all(s.shape[d] == 1 for d in dims)])
    assert all(s.ndim == ndim for shadows in kept for s in shadows)
    return kept


def _written(walk: Walk, tensors: Sequence[Tensor], dims: Iterable[int], out: Tensor) -> None:
    """Tensors of one rank, the target first, that agree in every dimension but `dims`: there, they are the same channels."""
    # index_add(target (N, C), 0, index (E,), source (E, C)), dims {0}: both as (1, C), where they meet. An index of scatter that was
    # expanded along C (stride 0) says nothing about C; one that has numbers of its own for every channel is a constant there.
    dims = set(dims)
    target = tensors[0]
    blank = walk.is_blank(target) and not walk.shadows(target)
    operands = tensors[1:] if blank else tensors
    merged: list[Tensor] = []
    so_far = [1] * target.ndim
    for t, shadows in zip(operands, _beside(walk, operands, dims, target.ndim), strict=True):
        shape = [
            1 if d in dims or step == 0 else n
            for d, (n, step) in enumerate(zip(t.shape, t.stride(), strict=True))
        ]
        merged = walk.together(merged, so_far, shadows, shape)
        so_far = [max(a, b) for a, b in zip(so_far, shape, strict=True)]
    walk.set(out, merged)


def write_along(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """index_add, index_copy, index_reduce, index_fill: slices along one dimension, by a list of numbers."""
    target, dim = args[0], args[1] % max(args[0].ndim, 1)
    source = args[3] if len(args) > 3 else kwargs.get("source")
    operands = [target, source] if isinstance(source, Tensor) and source.ndim == target.ndim else [target]
    _written(walk, operands, [dim] if target.ndim else [], out)


def scatter(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """scatter, scatter_add, scatter_reduce: element by element, at the numbers of an index of the same rank."""
    target, dim, indices = args[0], args[1] % max(args[0].ndim, 1), args[2]
    source = args[3] if len(args) > 3 else kwargs.get("src")
    operands = [target, indices, *([source] if isinstance(source, Tensor) else [])]
    if any(t.ndim != target.ndim for t in operands):
        walk.freeze([s for t in operands for s in walk.shadows(t)], "channels are written by number")
        return
    # A smaller index writes the first elements only, however many channels there are.
    partly = [d for d in range(target.ndim) if len({t.shape[d] for t in operands}) > 1]
    _written(walk, operands, {dim, *partly} if target.ndim else (), out)


def index_put(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Entries written by number or by a mask; the other dimensions of target and values are the same channels."""
    # cache[:, rows] = values: target (N, R, C), indices [None, rows (L,)], values (N, L, C). Dimension 1 is addressed by
    # number: a shadow (1, 1, C) of the values meets that of the target. A mask (R, C) counts as the two dimensions it covers.
    target, indices, values = args[:3]
    covers = [0 if i is None else i.ndim if _is_mask(i) else 1 for i in indices]
    first = next(k for k, n in enumerate(covers) if n)
    last = max(k for k, n in enumerate(covers) if n)
    addressed = sum(covers)
    if any(n == 0 for n in covers[first:last]):
        walk.freeze([*walk.shadows(target), *walk.shadows(values)], "written by number in several dimensions")
        return
    dims = range(first, first + addressed)
    # What is assigned has as many dimensions as the indices in the place of those addressed; torch strips leading ones of size 1.
    many = max(1 if i is None or _is_mask(i) else i.ndim for i in indices)
    missing = target.ndim - addressed + many - values.ndim
    if missing < 0:
        walk.freeze([*walk.shadows(target), *walk.shadows(values)], "written by number in several dimensions")
        return
    shape = [1] * missing + list(values.shape)
    value_shadows = [s.reshape([1] * missing + list(s.shape)) for s in walk.shadows(values)]
    for s in value_shadows:
        for d in range(first, first + many):
            walk.ledger.rigid(s, d, "channels are written by number", walk.where)

    def aligned(sizes: Sequence[int]) -> list[int]:
        return [*sizes[:first], *[1] * addressed, *sizes[first + many :]]

    value_shadows = [
        s.reshape(aligned(s.shape))
        for s in value_shadows
        if all(n == 1 for n in s.shape[first : first + many])
    ]
    if walk.is_blank(target) and not walk.shadows(target):
        walk.set(out, value_shadows)
        return
    (target_shadows,) = _beside(walk, [target], dims, target.ndim)
    target_shape = [1 if d in dims else n for d, n in enumerate(target.shape)]
    walk.set(out, walk.together(target_shadows, target_shape, value_shadows, aligned(shape)))


def _is_mask(index: Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def masked_scatter(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Elements of a source, one after the other, where a mask holds: whole rows, if the mask is the same for all channels."""
    # Image features (n, C) in the place of marked tokens: target (N, T, C), mask (N, T, 1) expanded to (N, T, C). From the right,
    # the dimensions along which the mask does not change and the source is as large as the target are filled in order.
    target, mask, source = args[:3]
    mask = mask.expand(target.shape)
    rows = 0
    channels = {d for s in walk.shadows(args[1]) for d in range(-s.ndim, 0) if s.shape[d] > 1}
    while rows < min(target.ndim, source.ndim) and -1 - rows not in channels:
        if not _whole(mask, target, source, rows + 1):
            break
        rows += 1
    ahead = target.ndim - rows
    for t in (target, args[1], source):
        for s in walk.shadows(t):
            for d in range(max(t.ndim - rows, 0)):
                walk.ledger.rigid(s, d, "written where a mask holds", walk.where)
    lead = [1] * ahead
    operands = [
        ([s.reshape(lead + list(s.shape[t.ndim - rows :])) for s in walk.shadows(t) if _within(s, rows)], t)
        for t in (target, source)
    ]
    shape = [*lead, *target.shape[ahead:]]
    (target_shadows, _), (source_shadows, _) = operands
    walk.set(out, walk.together(target_shadows, shape, source_shadows, shape))


def _whole(mask: Tensor, target: Tensor, source: Tensor, back: int) -> bool:
    same = mask.stride(-back) == 0 or bool((mask == mask.narrow(-back, 0, 1)).all())
    return same and source.shape[-back] == target.shape[-back]


def _within(shadow: Tensor, rows: int) -> bool:
    return all(n == 1 for n in shadow.shape[: shadow.ndim - rows])
