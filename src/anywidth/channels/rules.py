"""One table: ATen operation -> what it does to channel labels.

A rule is `rule(walk, func, args, kwargs, out)`, called after the operation ran; it reads the shadows of the inputs,
writes those of the outputs, and tells the ledger which labels are equal. Operations are ATen's, so that einsum,
attention, GLU and everything else composite arrives here already taken apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.channels.labels import compact, varying
from anywidth.channels.walk import Walk

Rule = Callable[[Walk, Any, Sequence[Any], dict[str, Any], Any], None]
aten = torch.ops.aten


def outputs(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [t for t in out if isinstance(t, Tensor)] if isinstance(out, tuple | list) else []


def spread(shadow: Tensor, like: Tensor) -> Tensor:
    return shadow.expand(like.shape)


# Labels need not be as contiguous as the elements they follow.
_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default}


# --- movement: the same operation on the labels ----------------------------------------------------------------


def move(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source = args[0]
    results: list[list[Tensor]] = [[] for _ in outputs(out)]
    for shadow in walk.shadows(source):
        full = spread(shadow, source)
        moved = full.reshape(out.shape) if func in _RESHAPES else func(full, *args[1:], **kwargs)
        for slot, t in zip(results, outputs(moved), strict=True):
            label = compact(t)
            if label is not None:
                slot.append(label)
    for t, shadows in zip(outputs(out), results, strict=True):
        walk.set(t, shadows)


def move_as_float(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Movement whose kernels know floating point only; labels are far below 2^53."""
    shadows = []
    for shadow in walk.shadows(args[0]):
        moved = func(spread(shadow, args[0]).double(), *args[1:], **kwargs)
        label = compact(moved.long())
        if label is not None:
            shadows.append(label)
    walk.set(out, shadows)


def same(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Shape and labels stay (copies, softmax, cumulative sums, normalisation of every kind)."""
    for t in outputs(out):
        if t.shape == args[0].shape:
            walk.set(t, walk.shadows(args[0]))


def as_strided(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Pooling to 1x1 restrides its result in place; any other use of strides is opaque."""
    if tuple(args[1]) == tuple(args[0].shape):
        walk.set(out, walk.shadows(args[0]))
    else:
        walk.freeze(walk.shadows(args[0]), "raw strides")


def slice_(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    step = args[4] if len(args) > 4 else kwargs.get("step", 1)
    if step != 1:
        dim = (args[1] if len(args) > 1 else 0) % args[0].ndim
        for shadow in walk.shadows(args[0]):
            walk.ledger.rigid(shadow, dim, "every n-th channel is taken", walk.where)
    move(walk, func, args, kwargs, out)


def select(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Entries taken one by one: their number is written in the code."""
    dim = (args[1] if len(args) > 1 else 0) % args[0].ndim
    for shadow in walk.shadows(args[0]):
        walk.ledger.rigid(shadow, dim, "single channels are picked by number", walk.where)
    move(walk, func, args, kwargs, out)


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
    for shadow in walk.shadows(args[0]):
        walk.ledger.rigid(shadow, dim, "channels are indexed by a stored table", walk.where)
    if func in (aten.gather.default, aten.index_select.default):
        move(walk, func, args, kwargs, out)


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
            kept.append(shadow[:1].reshape([1] * ids.ndim + [-1]))
    walk.set(out, kept)


def pad(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """New positions along a channel dimension have label 0: they are always there."""
    source, widths = args[0], args[1]
    shadows = []
    for shadow in walk.shadows(source):
        full: list[int] = []
        for k in range(len(widths) // 2):
            along = shadow.shape[source.ndim - 1 - k] > 1
            full += [widths[2 * k], widths[2 * k + 1]] if along else [0, 0]
        if any(w < 0 for w in full):
            walk.freeze([shadow], "channels are cut by a fixed amount")
        shadows.append(aten.constant_pad_nd.default(shadow, full, 0))
    walk.set(out, shadows)


def cat(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    tensors = [t for t in args[0] if t.shape != (0,)]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    walk.set(out, joined(walk, tensors, dim))


def joined(walk: Walk, tensors: Sequence[Tensor], dim: int) -> list[Tensor]:
    along: list[Tensor | None] = []
    beside: list[Tensor] = []
    others: list[list[Tensor]] = []
    for t in tensors:
        mine = [s for s in walk.shadows(t) if s.shape[dim] > 1]
        if len(mine) > 1:
            walk.freeze(mine[1:], "two channel axes share one dimension")
        along.append(mine[0] if mine else None)
        others.append([s for s in walk.shadows(t) if s.shape[dim] == 1])
    if any(others):
        beside = others[0]
        for t, more in zip(tensors[1:], others[1:], strict=True):
            flat = [1 if d == dim else n for d, n in enumerate(t.shape)]
            beside = walk.together(beside, flat, more, flat)
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
    parts = []
    for t, s in zip(tensors, along, strict=True):
        s = torch.zeros([1] * t.ndim, dtype=torch.int64) if s is None else s
        parts.append(s.expand([t.shape[dim] if d == dim else n for d, n in enumerate(shape)]))
    both = torch.cat(parts, dim)
    if width > 1:
        walk.table(both)
    return [*beside, both]


def stack(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    combined: list[Tensor] = []
    shape = [1 if d == dim else n for d, n in enumerate(out.shape)]
    for i, t in enumerate(args[0]):
        mine = [s.unsqueeze(dim) for s in walk.shadows(t)]
        combined = mine if i == 0 else walk.together(combined, shape, mine, shape)
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
    target, indices, values = args[:3]
    rows = len(indices)
    if any(i is None for i in indices) or values.ndim != target.ndim - rows + 1:
        walk.freeze([*walk.shadows(target), *walk.shadows(values)], "written by number in several dimensions")
        return
    for s in walk.shadows(target):
        for d in range(rows):
            walk.ledger.rigid(s, d, "channels are written by number", walk.where)
    lead = [1] * rows
    mine = [s for s in walk.shadows(target) if not any(s.shape[d] > 1 for d in range(rows))]
    theirs = [s.reshape(lead + list(s.shape[1:])) for s in walk.shadows(values) if s.shape[0] == 1]
    if not mine and walk.is_blank(target):
        walk.set(out, theirs)
        return
    walk.set(out, walk.together(mine, (*lead, *target.shape[rows:]), theirs, (*lead, *values.shape[1:])))


# --- elementwise ------------------------------------------------------------------------------------------------


def pointwise(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    flat: list[Tensor] = []
    for a in [*args, *kwargs.values()]:
        flat += outputs(a) if isinstance(a, list | tuple) else [a] if isinstance(a, Tensor) else []
    for t in outputs(out):
        walk.set(t, walk.elementwise(flat, t.shape))


# --- reductions and pooling -------------------------------------------------------------------------------------


def reduce(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source = args[0]
    dims = next((a for a in args[1:2] if isinstance(a, int | list | tuple) and not isinstance(a, bool)), None)
    if func in (aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim):
        dims = args[2] if len(args) > 2 else kwargs.get("dim")
    dims = kwargs.get("dim", dims)
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        gone = set(range(source.ndim))
    else:
        gone = {d % max(source.ndim, 1) for d in ([dims] if isinstance(dims, int) else dims)}
    shadows = []
    for shadow in walk.shadows(source):
        keep = tuple(d for d in varying(shadow) if d not in gone)
        if len(keep) < len(varying(shadow)):
            if not keep:
                continue
            shadow = walk.ledger.project(shadow, keep, None, walk.where, contraction=True)
        shadows.append(shadow)
    for t in outputs(out):
        if t.ndim == source.ndim:
            walk.set(t, shadows)
        else:
            walk.set(t, [s.reshape([n for d, n in enumerate(s.shape) if d not in gone]) for s in shadows])


def spatial(count: int) -> Rule:
    """Pooling, resizing, padding by reflection: the last `count` dimensions are space."""

    def rule(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        source = args[0]
        shadows = []
        for shadow in walk.shadows(source):
            for d in range(source.ndim - count, source.ndim):
                if shadow.shape[d] > 1:
                    walk.ledger.rigid(shadow, d, "pooling or resizing runs along channels", walk.where)
                    shadow = shadow.narrow(d, 0, 1)
            if varying(shadow):
                shadows.append(shadow)
        for t in outputs(out):
            walk.set(t, shadows)
        if "avg_pool" in func.name():
            walk.record_pool(source)

    return rule


def mean(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    reduce(walk, func, args, kwargs, out)
    dims = args[1] if len(args) > 1 else None
    if args[0].ndim == 4 and dims is not None and {d % 4 for d in dims} == {2, 3}:
        walk.record_pool(args[0])


def im2col(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """(N, C, H, W) -> (N, C k k, L): every column lists the same channels (zero padding aside)."""
    source, kernel = args[0], args[1]
    shadows = []
    for shadow in walk.shadows(source):
        for d in {0, 2, 3} & set(varying(shadow)):
            walk.ledger.rigid(shadow, d, "unfold mixes channels with space", walk.where)
        row = shadow[:1, :, :1, :1].reshape(1, -1, 1, 1).expand(1, source.shape[1], math.prod(kernel), 1)
        label = compact(row.reshape(1, -1, 1))
        shadows += [] if label is None else [label]
    walk.set(out, shadows)


def col2im(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source, kernel = args[0], math.prod(args[2])
    shadows = []
    for shadow in walk.shadows(source):
        for d in {0, 2} & set(varying(shadow)):
            walk.ledger.rigid(shadow, d, "fold mixes channels with space", walk.where)
        table = shadow[:1, :, :1].reshape(1, -1, 1).expand(1, source.shape[1], 1).reshape(-1, kernel)
        walk.ledger.equate(table, table[:, :1])
        label = compact(table[:, 0].reshape(1, -1, 1, 1))
        shadows += [] if label is None else [label]
    walk.set(out, shadows)


# --- norms --------------------------------------------------------------------------------------------------------


def batch_norm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source = args[0]
    shape = [1, source.shape[1]] + [1] * (source.ndim - 2)
    shadows = walk.shadows(source)
    for p in args[1:5]:
        if isinstance(p, Tensor) and p.ndim == 1 and p.numel() == source.shape[1]:
            shadows = walk.together(shadows, source.shape, [s.reshape(shape) for s in walk.shadows(p)], shape)
    walk.set(outputs(out)[0], shadows)


def layer_norm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source = args[0]
    walk.set(outputs(out)[0], walk.elementwise([source, *outputs(list(args[2:4]))], source.shape))


def group_norm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    source, groups = args[0], args[6]
    shape = [1, source.shape[1]] + [1] * (source.ndim - 2)
    shadows = walk.shadows(source)
    for p in args[1:3]:
        if isinstance(p, Tensor):
            shadows = walk.together(shadows, source.shape, [s.reshape(shape) for s in walk.shadows(p)], shape)
    for s in shadows:
        if s.shape[1] > 1 and 1 < groups < source.shape[1]:
            each = source.shape[1] // groups
            walk.table(
                s.movedim(1, -1).reshape(-1, source.shape[1])[0].reshape(groups, each),
                prefer=0 if groups >= 8 else 1,
            )
    walk.set(outputs(out)[0], shadows)


# --- contractions ---------------------------------------------------------------------------------------------------


def project_out(walk: Walk, shadow: Tensor, dim: int) -> Tensor | None:
    if shadow.shape[dim] == 1:
        return shadow
    keep = tuple(d for d in varying(shadow) if d != dim)
    return walk.ledger.project(shadow, keep, None, walk.where, contraction=True) if keep else None


def bmm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """(b, m, k) x (b, k, n); mm and addmm are the case b = 1."""
    a, b = args
    sa, sb = walk.shadows(a), walk.shadows(b)
    if a.ndim == 2:
        sa, sb = [s.unsqueeze(0) for s in sa], [s.unsqueeze(0) for s in sb]
    full_a, full_b = (1, *a.shape)[-3:], (1, *b.shape)[-3:]
    # Along the batch and the summed dimension both operands are the same elements: align them there.
    swap = [s.transpose(1, 2).unsqueeze(1) for s in sb]  # (b, 1, n, k)
    grid_a, grid_b = (*full_a[:2], 1, full_a[2]), (full_b[0], 1, full_b[2], full_b[1])
    align = walk.together([s.unsqueeze(2) for s in sa], grid_a, swap, grid_b)  # over (b, m, n, k)
    result = []
    for s in align:
        if s.shape[3] > 1:
            keep = tuple(d for d in varying(s) if d != 3)
            if not keep:
                continue
            s = walk.ledger.project(s, keep, None, walk.where, contraction=True)
        result.append(s.squeeze(3))
    result = walk.without_nested(result)
    if a.ndim == 2:
        result = [s.squeeze(0) for s in result]
    walk.set(out, result)
    batch = () if a.ndim == 2 else (walk.size(a, 0),)
    inner = (
        walk.size(a, a.ndim - 1)
        if any(s.shape[-1] > 1 for s in walk.shadows(a))
        else walk.size(b, b.ndim - 2)
    )
    walk.record(out, [*batch, walk.size(a, a.ndim - 2), inner, walk.size(b, b.ndim - 1)])


def addmm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    bmm(walk, func, args[1:3], {}, out)
    walk.set(out, walk.elementwise([out, args[0]], out.shape))


def matvec(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    a, v = args
    rows = [s.reshape(1, -1) for s in walk.shadows(v)]
    both = walk.together(walk.shadows(a), a.shape, rows, (1, v.shape[0]))
    left = [t for s in both if (t := project_out(walk, s, 1)) is not None]
    walk.set(out, [s.squeeze(1) for s in left])
    walk.record(out, [walk.size(a, 0), walk.size(a, 1)])


def convolution(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    ws = walk.shadows(weight)
    for s in ws:
        for d in range(2, weight.ndim):
            walk.ledger.rigid(s, d, "a kernel keeps its spatial size", walk.where)
    ws = [s for s in ws if not any(s.shape[d] > 1 for d in range(2, weight.ndim))]
    ws = [s.reshape(s.shape[:2]) for s in ws]
    out_axis, in_axis = (1, 0) if transposed else (0, 1)
    rows = [s.movedim(out_axis, 0)[:, 0] for s in ws if s.shape[out_axis] > 1]
    cols = [s.movedim(in_axis, 0)[:, 0] for s in ws if s.shape[in_axis] > 1]
    channels = x.shape[1]
    xs = _conv_space(walk, x, out)
    outs: list[Tensor] = []
    tail = [1] * (x.ndim - 2)
    if groups > 1 and channels == groups:
        outs = _depthwise(walk, xs, x, weight, rows, cols, transposed, out)
    else:
        if groups > 1:
            for v in rows + cols:
                if v.numel() == weight.shape[0] and v.numel() > 1:
                    table = v.reshape(groups, -1)
                    walk.ledger.equate(table, table[:1])
        per = channels // groups
        label = [v.reshape(groups, per)[0] if v.numel() == channels and groups > 1 else v for v in cols]
        flat = [v.repeat(groups).reshape([1, channels, *tail]) for v in label] if per > 1 else []
        if groups > 1:
            for s in xs:
                if s.shape[1] > 1:
                    table = s.movedim(1, -1).reshape(-1, groups, per)
                    walk.ledger.equate(table, table[:, :1])
        xs = walk.together(xs, (x.shape[0], channels, *tail), flat, (1, channels, *tail))
        outs = [t for s in xs if (t := project_out(walk, s, 1)) is not None]
        for v in rows:
            v = v if v.numel() == out.shape[1] else v.repeat(groups)
            if groups > 1:
                walk.ledger.equate(v.reshape(groups, -1), v.reshape(groups, -1)[:1])
            outs.append(v.reshape([1, -1, *tail]))
    if isinstance(bias, Tensor):
        shape = [1, bias.shape[0], *tail]
        outs = walk.together(
            outs, (out.shape[0], out.shape[1], *tail), [s.reshape(shape) for s in walk.shadows(bias)], shape
        )
    walk.set(out, outs)
    kernel = math.prod(weight.shape[2:])
    space = [walk.size(x if transposed else out, d) for d in range(2, x.ndim)]
    walk.record(out, [kernel, walk.size(x, 0), walk.size(weight, 0), walk.size(weight, 1), *space])


def _conv_space(walk: Walk, x: Tensor, out: Tensor) -> list[Tensor]:
    """Shadows of the input without those along space: a convolution over channels keeps them, in their order."""
    kept = []
    for s in walk.shadows(x):
        along = [d for d in range(2, x.ndim) if s.shape[d] > 1]
        if along and (out.shape[along[0]] != x.shape[along[0]] or len(varying(s)) > 1):
            for d in along:
                walk.ledger.rigid(s, d, "a kernel runs along channels", walk.where)
                s = s.narrow(d, 0, 1)
        elif along:
            walk.ledger.ordered.append(s.reshape(-1).numpy())
        if varying(s):
            kept.append(s)
    return kept


def _depthwise(
    walk: Walk,
    xs: list[Tensor],
    x: Tensor,
    weight: Tensor,
    rows: list[Tensor],
    cols: list[Tensor],
    transposed: bool,
    out: Tensor,
) -> list[Tensor]:
    """One filter per input channel (or `m` of them): groups follow the channels."""
    channels, many = x.shape[1], out.shape[1] // x.shape[1]
    tail = [1] * (x.ndim - 2)
    own = cols if transposed else rows
    if many > 1:
        for v in own if not transposed else []:
            table = v.reshape(channels, many)
            walk.ledger.equate(table, table[:, :1])
        own = [v.reshape(channels, many)[:, 0] for v in own] if not transposed else own
        if transposed:
            walk.freeze(
                [v.reshape(-1, 1) for v in rows], "several filters per channel in a transposed convolution"
            )
    shape = (1, channels, *tail)
    merged = walk.together(xs, (x.shape[0], channels, *tail), [v.reshape(shape) for v in own], shape)
    if many == 1:
        return merged
    grown = []
    for s in merged:
        grown.append(s.repeat_interleave(many, dim=1) if s.shape[1] > 1 else s)
    return grown


def attention(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    raise AssertionError("attention kernels are off while tracing")


# --- models' own kernels ----------------------------------------------------------------------------------------


def roi_pool(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    walk.set(outputs(out)[0], [s for s in walk.shadows(args[0]) if varying(s) == [1]])


def blank_like(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    walk.set(out, walk.shadows(args[0]))


def nothing(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """No channels come out (fresh tensors, sizes, comparisons of indices)."""


_TABLE: dict[Rule, str] = {
    move: "view _unsafe_view reshape permute transpose t expand squeeze unsqueeze repeat "
    "unfold flip movedim diagonal split split_with_sizes chunk native_channel_shuffle _reshape_alias "
    "view_as_real view_as_complex tril triu channel_shuffle rot90 swapaxes",
    move_as_float: "pixel_shuffle pixel_unshuffle",
    as_strided: "as_strided",
    slice_: "slice",
    select: "select unbind",
    index: "index _unsafe_index",
    index_along: "index_select gather scatter scatter_add index_add index_copy scatter_ index_add_ index_fill_ topk",
    roll: "roll",
    embedding: "embedding",
    pad: "constant_pad_nd",
    cat: "cat concat",
    stack: "stack",
    copy_into: "copy_ copy",
    index_put: "index_put index_put_ _index_put_impl_",
    same: "hardswish hardsigmoid hardtanh relu6 silu mish gelu elu celu selu leaky_relu softplus clone alias detach contiguous lift_fresh _softmax _log_softmax cumsum cumprod softmax log_softmax native_dropout _to_copy _conj _fft_r2c _fft_c2r "
    "_safe_softmax bernoulli bernoulli_ normal_ uniform_ fill_ zero_ logcumsumexp dropout sort clamp masked_fill masked_fill_ "
    "_fake_quantize_learnable_per_tensor_affine",
    reduce: "sum amax amin var std var_mean std_mean max min argmax argmin prod any all logsumexp linalg_vector_norm norm "
    "median count_nonzero",
    mean: "mean",
    spatial(
        1
    ): "avg_pool1d max_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_linear1d upsample_nearest1d reflection_pad1d "
    "replication_pad1d max_pool1d_with_indices",
    spatial(
        2
    ): "avg_pool2d max_pool2d max_pool2d_with_indices _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "reflection_pad2d replication_pad2d grid_sampler_2d _upsample_nearest_exact2d",
    spatial(
        3
    ): "avg_pool3d max_pool3d max_pool3d_with_indices _adaptive_avg_pool3d adaptive_avg_pool3d upsample_trilinear3d "
    "upsample_nearest3d reflection_pad3d replication_pad3d adaptive_max_pool3d",
    im2col: "im2col",
    col2im: "col2im",
    batch_norm: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_with_update _batch_norm_no_update miopen_batch_norm",
    layer_norm: "native_layer_norm",
    group_norm: "native_group_norm",
    bmm: "mm bmm",
    addmm: "addmm baddbmm",
    matvec: "mv",
    convolution: "convolution _convolution cudnn_convolution mkldnn_convolution",
    attention: "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu",
    blank_like: "zeros_like ones_like empty_like full_like rand_like randn_like bernoulli.p",
    nothing: "arange linspace zeros ones empty full eye rand randn new_zeros new_empty new_ones new_full scalar_tensor "
    "_local_scalar_dense nonzero unique _unique2 bucketize meshgrid randint randperm empty_strided new_empty_strided "
    "item is_nonzero equal _assert_async tensor sym_size",
    roi_pool: "roi_align roi_pool ps_roi_align deform_conv2d",
}
RULES: dict[str, Rule] = {name: rule for rule, names in _TABLE.items() for name in names.split()}


def rule_for(func: Any) -> Rule | None:
    """The rule of an ATen overload; None if there is none."""
    name = func._schema.name.split("::")[-1]
    if name in RULES:
        return RULES[name]
    if name == "_fused_rms_norm":
        return layer_norm
    if torch.Tag.pointwise in func.tags:
        return pointwise
    if name.endswith("_") and not name.endswith("__"):
        return _in_place(name[:-1])
    return None


def _in_place(name: str) -> Rule | None:
    """The rule of the operation that an in-place one is a form of; not all in-place forms carry their tags."""
    if name in RULES:
        return RULES[name]
    packet = getattr(aten, name, None)
    overloads = [getattr(packet, o) for o in packet.overloads()] if packet is not None else []
    return pointwise if any(torch.Tag.pointwise in o.tags for o in overloads) else None
