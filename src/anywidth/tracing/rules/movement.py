"""Movement: the same operation on the labels; and picking, joining, writing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.tracing.labels import as_shadow, varying
from anywidth.tracing.trace_state import Walk, outputs

aten = torch.ops.aten
# Labels need not be as contiguous as the elements they follow.
_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default}


def spread(shadow: Tensor, like: Tensor) -> Tensor:
    return shadow.expand(like.shape)


def move(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    # permute(0, 2, 3, 1) on (N, C, H, W): shadow (1, C, 1, 1), expanded (N, C, H, W), moved (N, H, W, C), compact (1, 1, 1, C).
    source = args[0]
    results: list[list[Tensor]] = [[] for _ in outputs(out)]
    for shadow in walk.shadows(source):
        full = spread(shadow, source)
        moved = full.reshape(out.shape) if func in _RESHAPES else func(full, *args[1:], **kwargs)
        for slot, t in zip(results, outputs(moved), strict=True):
            label = as_shadow(t)
            if label is not None:
                slot.append(label)
    for t, shadows in zip(outputs(out), results, strict=True):
        walk.set(t, without_copies(walk, shadows))
    if func in _RESHAPES and (summed := walk.summed_sizes.get(source)) is not None:
        walk.summed_sizes[out] = summed  # still the sum over the same dimension


def without_copies(walk: Walk, shadows: Sequence[Tensor]) -> list[Tensor]:
    """Shadows of a tensor, less those that number copies along a dimension of channels: there are as many at every width."""
    # Key heads for grouped queries: (N, heads, 1, dim) expanded to (N, heads, self.repeats, dim), then to (N, heads repeats, dim).
    # Whether `repeats` counts channels is not known when it is expanded; here it shares a dimension with the heads.
    kept = list(shadows)
    for s in shadows if len(shadows) > 1 else ():
        shared = any(t is not s and set(varying(t)) & set(varying(s)) for t in kept)
        if shared and walk.ledger.is_count(s):
            walk.ledger.freeze(s, "a number of copies", walk.where)
            kept = [t for t in kept if t is not s]
    return kept


def move_as_float(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Movement whose kernels know floating point only; labels are far below 2^53."""
    shadows = []
    for shadow in walk.shadows(args[0]):
        moved = func(spread(shadow, args[0]).double(), *args[1:], **kwargs)
        label = as_shadow(moved.long())
        if label is not None:
            shadows.append(label)
    walk.set(out, shadows)


def same(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Labels stay (copies, softmax, cumulative sums); a dimension whose size changes keeps no channels."""
    source = args[0]
    for t in outputs(out):
        if t.ndim != source.ndim:
            walk.freeze(walk.shadows(source), "a transform to another shape")
            continue
        walk.set(
            t,
            without(walk, walk.shadows(source), {d for d in range(t.ndim) if t.shape[d] != source.shape[d]}),
        )


def without(walk: Walk, shadows: Sequence[Tensor], dims: Iterable[int]) -> list[Tensor]:
    """Shadows after an operation that mixes what lies along `dims`: those dimensions keep their size."""
    kept = []
    for s in shadows:
        for d in dims:
            if s.shape[d] > 1:
                walk.ledger.rigid(s, d, "mixed along the channels", walk.where)
                s = s.narrow(d, 0, 1)
        kept.append(s)
    return kept


def scan(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Running sums: along channels they depend on their order."""
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % max(args[0].ndim, 1)
    for s in walk.shadows(args[0]):
        if s.shape[dim] > 1:
            walk.ledger.ordered.append(s.numpy().ravel())
    for t in outputs(out):
        walk.set(t, walk.shadows(args[0]))


def fourier(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    walk.set(out, without(walk, walk.shadows(args[0]), [d % args[0].ndim for d in args[1]]))


def complex_view(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Real and imaginary parts as a last dimension of size 2, or back."""
    if out.ndim > args[0].ndim:
        walk.set(out, [s.unsqueeze(-1) for s in walk.shadows(args[0])])
    else:
        walk.set(out, [s.squeeze(-1) for s in without(walk, walk.shadows(args[0]), [args[0].ndim - 1])])


def shuffle(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Channels dealt out in groups: every group loses the same ones."""
    # Labels 1..6 with 2 groups: the table [[1, 2, 3], [4, 5, 6]] says 1 = 4, 2 = 5, 3 = 6; shuffled they are 1 4 2 5 3 6.
    for s in walk.shadows(args[0]):
        if s.shape[1] > 1:
            table = s.movedim(1, 0).reshape(args[1], s.shape[1] // args[1], -1)
            walk.ledger.equate(table, table[:1])
    move(walk, func, args, kwargs, out)


def pixel_shuffle(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """(N, C r r, H, W) -> (N, C, H r, W r): the r r channels of an output channel go together."""
    # Factor 2, labels 1..8: the table [[1, 2, 3, 4], [5, 6, 7, 8]], rows as wholes; output channels carry 1 and 5.
    each = args[1] ** 2
    shadows = []
    for s in walk.shadows(args[0]):
        dim = args[0].ndim - 3
        if s.shape[dim] > 1:
            table = s.unflatten(dim, (-1, each))
            walk.ledger.equate(table, table.narrow(dim + 1, 0, 1))
            s = table.select(dim + 1, 0)
        shadows.append(s)
    walk.set(out, without(walk, shadows, [args[0].ndim - 2, args[0].ndim - 1]))


def as_strided(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Pooling to 1x1 restrides its result in place, and a short-time Fourier transform cuts signals into frames.

    The strides that a model's own code asks for are frozen where they are asked for: see `shape_arguments`.
    """
    source = args[0]
    if tuple(args[1]) == tuple(source.shape):
        walk.set(out, walk.shadows(source))
    elif not source.is_contiguous() or source.storage_offset():
        walk.freeze(walk.shadows(source), "raw strides")
    else:
        # Signals (C, 32) in 13 frames of 8 at a distance of 2, strides (32, 2, 1): the labels (C, 1), spelled out, move alike.
        framed = [
            as_shadow(spread(s, source).contiguous().as_strided(*args[1:])) for s in walk.shadows(source)
        ]
        walk.set(out, [s for s in framed if s is not None])


def slice_(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """A run of channels; or every n-th one, where each n neighbours go together."""
    # gate, up = x[..., ::2], x[..., 1::2]: labels 1..6 as the table [[1, 2], [3, 4], [5, 6]], so 1 = 2, 3 = 4, 5 = 6, and a narrow
    # network has whole pairs too.
    step = args[4] if len(args) > 4 else kwargs.get("step", 1)
    if step != 1:
        source, dim = args[0], (args[1] if len(args) > 1 else 0) % args[0].ndim
        size = source.shape[dim]
        whole = size % step == 0 and out.shape[dim] == size // step and (args[2] or 0) in range(step)
        for shadow in walk.shadows(source):
            if whole and shadow.shape[dim] > 1:
                neighbours = shadow.unflatten(dim, (-1, step))
                walk.ledger.equate(neighbours, neighbours.narrow(dim + 1, 0, 1))
            else:
                walk.ledger.rigid(shadow, dim, "every n-th channel is taken", walk.where)
    move(walk, func, args, kwargs, out)


def select(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Entries taken one by one: their number is written in the code.

    The first or last one is often taken for the shape of the rest: `self.positions(x[..., -1])` asks for a length.
    """
    dim = (args[1] if len(args) > 1 else 0) % args[0].ndim
    reason = "single channels are picked by number"
    if isinstance(out, Tensor) and args[2] in (0, -1):
        walk.positions(out, walk.shadows(args[0]), [dim], reason)
    else:
        for shadow in walk.shadows(args[0]):
            walk.ledger.rigid(shadow, dim, reason, walk.where)
    move(walk, func, args, kwargs, out)


def glu(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """The first half times the gated second half: both lose the same channels."""
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % args[0].ndim
    halves = []
    for s in walk.shadows(args[0]):
        if s.shape[dim] > 1:
            values, gates = s.chunk(2, dim)
            walk.ledger.equate(values, gates)
            s = values
        halves.append(s)
    walk.set(out, halves)


def index(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source, indices = args[0], args[1]
    dim = 0
    touched: set[int] = set()
    for ix in indices:
        step = ix.ndim if ix is not None and ix.dtype == torch.bool else 1
        if ix is not None:
            touched |= set(range(dim, dim + step))
        dim += step
    for shadow in walk.shadows(source):
        for d in touched:
            walk.ledger.rigid(shadow, d, "channels are indexed by a stored table", walk.where)
    move(walk, func, args, kwargs, out)


def index_along(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    dim = args[1] % max(args[0].ndim, 1)
    if func is aten.index_select.default and walk.shadows(args[2]):
        selection(walk, args[0], dim, args[2], out)
        return
    for shadow in walk.shadows(args[0]):
        walk.ledger.rigid(shadow, dim, "channels are indexed by a stored table", walk.where)
    if func in (aten.gather.default, aten.index_select.default):
        move(walk, func, args, kwargs, out)


def selection(walk: Walk, source: Tensor, dim: int, indices: Tensor, out: Tensor) -> None:
    """A buffer says which channels are read: its entries are channels of their own, what they point at stays."""
    kept = []
    for s in walk.shadows(source):
        if s.shape[dim] > 1:
            walk.ledger.rigid(s, dim, "read through a selection", walk.where)
        else:
            kept.append(s)
    shape = [indices.numel() if d == dim else 1 for d in range(out.ndim)]
    walk.set(out, [*kept, *(s.reshape(shape) for s in walk.shadows(indices))])


def roll(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    dims = args[2] if len(args) > 2 else kwargs.get("dims", [])
    for shadow in walk.shadows(args[0]):
        for d in dims or range(args[0].ndim):
            walk.ledger.rigid(shadow, d % args[0].ndim, "channels are rolled by a fixed amount", walk.where)
    move(walk, func, args, kwargs, out)


def embedding(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    weight, ids = args[0], args[1]
    kept = []
    for shadow in walk.shadows(weight):
        walk.ledger.rigid(shadow, 0, "the entries of an embedding are addressed by number", walk.where)
        if shadow.shape[1] > 1:
            # Also where the same weight reads elsewhere, as that of a language model's head does.
            walk.written.append(shadow[:1].numpy().ravel())
            kept.append(shadow[:1].reshape([1] * ids.ndim + [-1]))
    walk.embedded[out] = True
    walk.set(out, kept)


def embedding_bag(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Sums, means or maxima of rows of a table: entries (R, C) -> bags (B, C)."""
    weight, per_sample = args[0], args[6] if len(args) > 6 else kwargs.get("per_sample_weights")
    kept = []
    for s in walk.shadows(weight):
        walk.ledger.rigid(s, 0, "the entries of an embedding are addressed by number", walk.where)
        if s.shape[1] > 1:
            walk.written.append(s[:1].numpy().ravel())
            kept.append(s[:1])
    if isinstance(per_sample, Tensor):
        walk.freeze(walk.shadows(per_sample), "one weight for each entry of a bag")
    walk.set(outputs(out)[0], kept)


def masked_select(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Elements where a mask holds, in one row: whole rows of channels, if the mask is the same for all channels."""
    # h (5, C) where a mask (5, 1) holds for 3 of its rows: the labels 1..C three times, of which a narrow network has the kept ones.
    source, mask = args[:2]
    walk.freeze(walk.shadows(mask), "channels are chosen by their values")
    shadows = walk.elementwise([source, mask], torch.broadcast_shapes(source.shape, mask.shape))
    selected = [as_shadow(torch.masked_select(s.expand(source.shape), mask)) for s in shadows]
    walk.set(out, [s for s in selected if s is not None])
