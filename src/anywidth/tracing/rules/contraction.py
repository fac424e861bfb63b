"""Contractions: labels meet along the summed axis, the others are passed on; and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.tracing.labels import varying
from anywidth.tracing.trace_state import Walk

aten = torch.ops.aten


def project_out(walk: Walk, shadow: Tensor, dim: int) -> Tensor | None:
    if shadow.shape[dim] == 1:
        return shadow
    keep = tuple(d for d in varying(shadow) if d != dim)
    return walk.ledger.project(shadow, keep, None, walk.where, contraction=True) if keep else None


def bmm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """(b, m, k) x (b, k, n); mm and addmm are the case b = 1."""
    # Both operands as if spelled out over the grid (b, m, n, k), in which the result is the sum over k:
    #     a (b, m, k) -> (b, m, 1, k)        b (b, k, n) -> (b, 1, n, k)        out (b, m, n)
    # A label along k alone is summed away; one along m or n is passed on; a table along m and k is projected on m.
    a, b = args
    sa, sb = walk.shadows(a), walk.shadows(b)
    if a.ndim == 2:
        sa, sb = [s.unsqueeze(0) for s in sa], [s.unsqueeze(0) for s in sb]
    walk.contracted(a, b, a.ndim - 1, b.ndim - 2)
    full_a, full_b = (1, *a.shape)[-3:], (1, *b.shape)[-3:]
    # Along the batch and the summed dimension both operands are the same elements: align them there.
    swapped = [s.transpose(1, 2).unsqueeze(1) for s in sb]  # (b, 1, n, k)
    grid_a, grid_b = (*full_a[:2], 1, full_a[2]), (full_b[0], 1, full_b[2], full_b[1])
    aligned = walk.together([s.unsqueeze(2) for s in sa], grid_a, swapped, grid_b)  # over (b, m, n, k)
    out_shadows = []
    for s in aligned:
        if s.shape[3] > 1:
            keep = tuple(d for d in varying(s) if d != 3)
            if not keep:
                continue
            s = walk.ledger.project(s, keep, None, walk.where, contraction=True)
        out_shadows.append(s.squeeze(3))
    out_shadows = walk.without_nested(out_shadows)
    if a.ndim == 2:
        out_shadows = [s.squeeze(0) for s in out_shadows]
    walk.set(out, out_shadows)
    batch = () if a.ndim == 2 else (walk.size(a, 0),)
    summed_size = (
        walk.size(a, a.ndim - 1)
        if any(s.shape[-1] > 1 for s in walk.shadows(a))
        else walk.size(b, b.ndim - 2)
    )
    walk.summed_sizes[out] = summed_size
    walk.record(out, [*batch, walk.size(a, a.ndim - 2), summed_size, walk.size(b, b.ndim - 1)])


def addmm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    bmm(walk, func, args[1:3], {}, out)
    walk.set(out, walk.elementwise([out, args[0]], out.shape))


def matvec(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    a, v = args
    walk.contracted(a, v, 1, 0)
    rows = [s.reshape(1, -1) for s in walk.shadows(v)]
    product_shadows = walk.together(walk.shadows(a), a.shape, rows, (1, v.shape[0]))
    row_shadows = [t for s in product_shadows if (t := project_out(walk, s, 1)) is not None]
    walk.set(out, [s.squeeze(1) for s in row_shadows])
    walk.record(out, [walk.size(a, 0), walk.size(a, 1)])


def convolution(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    # weight (out, in / groups, k, k), transposed (in, out / groups, k, k):
    #     groups = 1           `rows` (out,) label the output, `cols` (in,) meet the channels of x
    #     groups = channels    depthwise: row i belongs to channel i of x, and both go together
    #     else                 every group loses the same channels: 8 channels in 2 groups, 1 = 5, 2 = 6, 3 = 7, 4 = 8
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
    if not (groups > 1 and channels == groups):  # a depthwise filter has no inputs besides its own channel
        walk.contracted(x, weight, 1, in_axis)
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
        # A weight has in / groups columns: its labels, repeated for every group, meet the labels of x.
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
    # x (N, 4, H, W), weight (8, 1, k, k), groups 4: multiplier 2, and rows 1..8 as the table [[1, 2], [3, 4], [5, 6], [7, 8]];
    # its rows go as a whole, with the channel of x that they read.
    channels, multiplier = x.shape[1], out.shape[1] // x.shape[1]
    tail = [1] * (x.ndim - 2)
    filter_labels = cols if transposed else rows
    if multiplier > 1:
        for v in filter_labels if not transposed else []:
            table = v.reshape(channels, multiplier)
            walk.ledger.equate(table, table[:, :1])
        filter_labels = (
            [v.reshape(channels, multiplier)[:, 0] for v in filter_labels]
            if not transposed
            else filter_labels
        )
        if transposed:
            walk.freeze(
                [v.reshape(-1, 1) for v in rows], "several filters per channel in a transposed convolution"
            )
    shape = (1, channels, *tail)
    merged = walk.together(
        xs, (x.shape[0], channels, *tail), [v.reshape(shape) for v in filter_labels], shape
    )
    if multiplier == 1:
        return merged
    outputs = []
    for s in merged:
        outputs.append(s.repeat_interleave(multiplier, dim=1) if s.shape[1] > 1 else s)
    return outputs


def deformable_convolution(
    walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any
) -> None:
    """A convolution that reads where its offsets say: these, and the mask, count places of the kernel, not channels."""
    # input (N, C, H, W), weight, offset (N, 2 k k g, H, W), mask (N, k k g, H, W), with g offset groups: g runs of channels of the
    # input that share their offsets, so every run loses the same channels.
    x, weight, offset, mask, bias = args[:5]
    groups, offset_groups = args[11:13]
    for t in (offset, mask):
        for s in walk.shadows(t):
            for d in range(t.ndim):
                walk.ledger.rigid(s, d, "offsets are places in the kernel", walk.where)
    for s in walk.shadows(x):
        if offset_groups > 1 and s.shape[1] > 1:
            table = s.unflatten(1, (offset_groups, -1))
            walk.ledger.equate(table, table[:, :1])
    convolution(walk, func, (x, weight, bias, None, None, None, False, None, groups), {}, out)


def attention(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    raise AssertionError("attention kernels are off while tracing")
