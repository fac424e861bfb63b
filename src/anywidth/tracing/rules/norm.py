"""Norms: the axis of the parameters is the channel axis of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.tracing.trace_state import Walk, outputs

aten = torch.ops.aten


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
            # 32 channels in 8 groups: the table (8, 4) loses whole groups; with few groups each of them gets narrower.
            each = source.shape[1] // groups
            walk.table(
                s.movedim(1, -1).reshape(-1, source.shape[1])[0].reshape(groups, each),
                prefer=0 if groups >= 8 else 1,
            )
    walk.set(outputs(out)[0], shadows)


def weight_norm(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Direction times gain: elementwise on the direction."""
    walk.set(outputs(out)[0], walk.elementwise(args[:2], args[0].shape))
