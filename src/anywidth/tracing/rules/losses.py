"""Losses computed in the forward: class numbers keep the axis that they index, the others are elementwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anywidth.tracing.trace_state import Walk, outputs


def elementwise_loss(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Squared error and its like: channels of prediction and target (and weight) are the same; a mean or sum has none."""
    terms = [t for t in [*args, *kwargs.values()] if isinstance(t, Tensor)]
    shadows = walk.elementwise(terms, args[0].shape)
    walk.set(out, shadows if out.ndim == args[0].ndim else [])


def class_loss(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Negative log likelihood of (N, C) or (N, C, H, W): the C classes are addressed by the numbers in the target."""
    source = args[0]
    dim = min(1, source.ndim - 1)
    kept = []
    for s in walk.shadows(source):
        walk.ledger.rigid(s, dim, "class numbers index it", walk.where)
        if s.shape[dim] == 1:
            kept.append(s.squeeze(dim))
    for t in args[1:3]:
        if isinstance(t, Tensor):
            walk.freeze(walk.shadows(t), "class numbers index it")
    loss = outputs(out)[0]
    walk.set(loss, [s for s in kept if s.ndim == loss.ndim])


def sequence_loss(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """CTC: (T, N, C) against lists of class numbers."""
    for s in walk.shadows(args[0]):
        for d in range(args[0].ndim):
            walk.ledger.rigid(s, d, "class numbers index it", walk.where)
