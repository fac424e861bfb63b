"""Rules of operations that bring tensors together, or put them into others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.tracing.labels import varying
from anywidth.tracing.trace_state import Walk

aten = torch.ops.aten


def pad(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """New positions along a channel dimension have label 0: they are always there."""
    source, amounts = args[0], args[1]
    shadows = []
    for shadow in walk.shadows(source):
        full: list[int] = []
        for k in range(len(amounts) // 2):
            along = shadow.shape[source.ndim - 1 - k] > 1
            full += [amounts[2 * k], amounts[2 * k + 1]] if along else [0, 0]
        if any(w < 0 for w in full):
            walk.freeze([shadow], "channels are cut by a fixed amount")
        shadows.append(aten.constant_pad_nd.default(shadow, full, 0))
    walk.set(out, shadows)


def cat(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    tensors = [t for t in args[0] if t.shape != (0,)]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    walk.set(out, joined(walk, tensors, dim))


def joined(walk: Walk, tensors: Sequence[Tensor], dim: int) -> list[Tensor]:
    # cat([x (N, 3), y (N, 2)], 1), x with labels 4 5 6, y without: `along` [(1, 3), None] -> (1, 5) with 4 5 6 0 0.
    # Shadows across `dim` (labels along N, say) belong to all tensors, and are merged into one in `beside`.
    along: list[Tensor | None] = []
    beside: list[Tensor] = []
    cross_shadows: list[list[Tensor]] = []
    for t in tensors:
        along_dim = [s for s in walk.shadows(t) if s.shape[dim] > 1]
        if len(along_dim) > 1:
            walk.freeze(along_dim[1:], "two channel axes share one dimension")
        along.append(along_dim[0] if along_dim else None)
        cross_shadows.append([s for s in walk.shadows(t) if s.shape[dim] == 1])
    if any(cross_shadows):
        beside = cross_shadows[0]
        for t, tensor_shadows in zip(tensors[1:], cross_shadows[1:], strict=True):
            flat = [1 if d == dim else n for d, n in enumerate(t.shape)]
            beside = walk.together(beside, flat, tensor_shadows, flat)
    if all(s is None for s in along):
        return beside
    width = max(len(varying(s)) for s in along if s is not None)
    shape = [1] * tensors[0].ndim
    if width > 1:
        for s in along:
            shape = (
                [max(a, b) if d != dim else 1 for d, (a, b) in enumerate(zip(shape, s.shape, strict=True))]
                if s is not None
                else shape
            )
    spelled_out = []
    for t, s in zip(tensors, along, strict=True):
        s = torch.zeros([1] * t.ndim, dtype=torch.int64) if s is None else s
        spelled_out.append(s.expand([t.shape[dim] if d == dim else n for d, n in enumerate(shape)]))
    joined_labels = torch.cat(spelled_out, dim)
    if width > 1:
        walk.table(joined_labels)
    return [*beside, joined_labels]


def stack(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    combined: list[Tensor] = []
    shape = [1 if d == dim else n for d, n in enumerate(out.shape)]
    for i, t in enumerate(args[0]):
        unsqueezed = [s.unsqueeze(dim) for s in walk.shadows(t)]
        combined = unsqueezed if i == 0 else walk.together(combined, shape, unsqueezed, shape)
    walk.set(out, combined)


def copy_into(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """A write into a tensor: what was there and what comes must agree."""
    target, source = args[0], args[1]
    before = walk.shadows(target)
    if not before and walk.is_blank(target):
        walk.set(
            target, [s.reshape([1] * (target.ndim - s.ndim) + list(s.shape)) for s in walk.shadows(source)]
        )
        return
    walk.set(target, walk.elementwise([target, source], target.shape))


def index_put(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Rows written by number; the other dimensions of target and values are the same channels."""
    # cache[rows, cols] = values: target (R, S, C), values (L, C), out (R, S, C). Dimensions 0 and 1 are addressed by number;
    # a shadow (1, C) of the values becomes (1, 1, C) and meets that of the target.
    target, indices, values = args[:3]
    rows = len(indices)
    # torch strips leading dimensions of size 1 from what is assigned; they are put back here.
    missing = target.ndim - rows + 1 - values.ndim
    if any(i is None for i in indices) or missing < 0:
        walk.freeze([*walk.shadows(target), *walk.shadows(values)], "written by number in several dimensions")
        return
    for s in walk.shadows(target):
        for d in range(rows):
            walk.ledger.rigid(s, d, "channels are written by number", walk.where)
    lead = [1] * rows
    shape = [1] * missing + list(values.shape)
    value_shadows = [s.reshape([1] * missing + list(s.shape)) for s in walk.shadows(values)]
    target_shadows = [s for s in walk.shadows(target) if not any(s.shape[d] > 1 for d in range(rows))]
    row_shadows = [s.reshape(lead + list(s.shape[1:])) for s in value_shadows if s.shape[0] == 1]
    if not target_shadows and walk.is_blank(target):
        walk.set(out, row_shadows)
        return
    walk.set(
        out, walk.together(target_shadows, (*lead, *target.shape[rows:]), row_shadows, (*lead, *shape[1:]))
    )
