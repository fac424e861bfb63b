"""Elementwise operations, reductions and pooling: labels survive on the dimensions that remain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.tracing.labels import as_shadow, varying
from anywidth.tracing.trace_state import Walk, outputs

Rule = Callable[[Walk, Any, Sequence[Any], dict[str, Any], Any], None]
aten = torch.ops.aten


def pointwise(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    flat: list[Tensor] = []
    for a in [*args, *kwargs.values()]:
        flat += outputs(a) if isinstance(a, list | tuple) else [a] if isinstance(a, Tensor) else []
    for t in outputs(out):
        walk.set(t, walk.elementwise(flat, t.shape))
    # Both terms elastic: a residual connection. Its groups are marked as streams.
    added = walk.operation in ("add", "add_", "sub", "sub_") and len(flat) == 2
    if added and flat[0].shape == flat[1].shape and all(walk.shadows(t) for t in flat):
        walk.ledger.summed += [s.numpy().ravel() for s in walk.shadows(flat[0])]


def reduce(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    # (N, heads, T, dim) summed over -1: the shadow (1, heads, 1, dim) is projected on heads; (N, C, H, W) over (2, 3) keeps
    # its shadow (1, C, 1, 1), reshaped to (1, C) unless keepdim.
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


def unpool(count: int) -> Rule:
    """Values put back to the places in space that pooling took them from: the places of a channel go with it."""

    def rule(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        source, places = args[:2]
        space = range(source.ndim - count, source.ndim)
        for s in [*walk.shadows(source), *walk.shadows(places)]:
            for d in space:
                walk.ledger.rigid(s, d, "pooling or resizing runs along channels", walk.where)
        shadows = walk.elementwise([source, places], source.shape)
        walk.set(out, [s for s in shadows if all(s.shape[d] == 1 for d in space)])

    return rule


def random_pool(count: int) -> Rule:
    """Fractional pooling: where each channel is cut comes from random numbers (N, C, count)."""
    pool = spatial(count)

    def rule(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        pool(walk, func, args, kwargs, out)
        source, samples = args[0], args[3]
        space = [1] * count
        # Without a batch (C, H, W) the numbers are (1, C, count) all the same.
        numbers = [s for s in walk.shadows(samples) if s.shape[-1] == 1]
        aligned = [s.reshape([*s.shape[:-1], *space][-source.ndim :]) for s in numbers]
        shape = [*samples.shape[:-1], *space][-source.ndim :]
        pooled = outputs(out)[0]
        for t in outputs(out):
            walk.set(t, walk.together(walk.shadows(pooled), pooled.shape, aligned, shape))

    return rule


def overlap_add(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Frames (C, frames, size) added up to signals (C, length), at the end of an inverse Fourier transform."""
    frames, dim = args[0], args[2] % out.ndim
    for s in walk.shadows(frames):
        for d in (dim, frames.ndim - 1):
            walk.ledger.rigid(s, d, "frames are added up", walk.where)
    walk.set(out, [s.squeeze(-1) for s in walk.shadows(frames) if s.shape[dim] == s.shape[-1] == 1])


def segments(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Runs of rows, each reduced to one."""
    axis = kwargs.get("axis", 0) % args[0].ndim
    for s in walk.shadows(args[0]):
        walk.ledger.rigid(s, axis, "runs of fixed lengths", walk.where)
    walk.set(out, [s for s in walk.shadows(args[0]) if s.shape[axis] == 1])


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
        label = as_shadow(row.reshape(1, -1, 1))
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
        label = as_shadow(table[:, 0].reshape(1, -1, 1, 1))
        shadows += [] if label is None else [label]
    walk.set(out, shadows)
