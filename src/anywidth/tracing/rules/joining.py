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
    base = target._base
    if not before and base is not None and walk.is_blank(base):
        write_part(walk, base, target, source)
        return
    walk.set(target, walk.elementwise([target, source], target.shape))


def write_part(walk: Walk, base: Tensor, part: Tensor, source: Tensor) -> None:
    """A write into a part of a tensor that was filled with a constant: along what is whole, it takes the channels written."""
    # out = zeros(N, T, C); out[:, 3] = h, h (N, C) with the shadow (1, C): the part (N, C) has the strides of dimensions 0 and 2 of
    # `out`, so `out` gets the shadow (1, 1, C). A second write to out[:, 4] meets it.
    places = {step: d for d, (n, step) in enumerate(zip(base.shape, base.stride(), strict=True)) if n > 1}
    lead = [1] * (part.ndim - source.ndim)
    shadows = [s.reshape(lead + list(s.shape)) for s in walk.shadows(source)]
    whole = {}
    for d in range(part.ndim):
        place = places.get(part.stride(d))
        if part.shape[d] > 1 and place is not None and base.shape[place] == part.shape[d]:
            whole[d] = place
        for s in shadows:
            if d not in whole:
                walk.ledger.rigid(s, d, "written to a part of a tensor", walk.where)
    shadows = [s for s in shadows if set(varying(s)) <= set(whole)]
    sizes = [1] * base.ndim
    for d in whole.keys() - range(len(lead)):
        sizes[whole[d]] = 1 if source.stride(d - len(lead)) == 0 else source.shape[d - len(lead)]
    moved = []
    for s in shadows:
        order = sorted(varying(s), key=lambda d: whole[d])
        shape = [1] * base.ndim
        for d in order:
            shape[whole[d]] = s.shape[d]
        rest = [d for d in range(s.ndim) if d not in order]
        moved.append(s.permute(*order, *rest).reshape(shape))
    known = walk.shadows(base)
    walk.set(base, walk.together(known, base.shape, moved, sizes) if known else moved)
    walk.set(part, shadows)
