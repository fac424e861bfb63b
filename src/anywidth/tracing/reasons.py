"""Why channels are fixed, for every axis of every tensor."""

from __future__ import annotations

import numpy as np

from anywidth.space.axes import Frozen
from anywidth.tracing.coder import Coder
from anywidth.tracing.labels import FIXED
from anywidth.tracing.solution import Solution
from anywidth.tracing.trace_state import Walk

_KERNEL = "a kernel keeps its spatial size"


def frozen_axes(walk: Walk, solution: Solution, coder: Coder) -> tuple[Frozen, ...]:
    """For every fixed channel axis of a weight, the first event that fixed it."""
    # The partition of the solution cannot tell causes apart: all that is fixed is one set there, that of label 0. So every set of the
    # equalities without those to label 0 takes the earliest freeze that touched it.
    equal = solution.equal
    freeze_index = np.full(walk.ledger.count, -1)
    for i in range(len(solution.freezes) - 1, -1, -1):
        freeze_index[equal[solution.freezes[i].labels]] = i
    fixed_labels = coder.group_of[solution.partition.name] < 0
    reasons = []
    for block in walk.ledger.blocks:
        if block.tensor is None or not fixed_labels[block.start : block.start + block.size].any():
            continue
        fixed = block.start + np.flatnonzero(fixed_labels[block.start : block.start + block.size])
        cause_index = int(freeze_index[equal[fixed]].max())
        cause = solution.freezes[cause_index] if cause_index >= 0 else None
        reason = f"{cause.reason} ({cause.where})" if cause else _default_reason(solution, fixed)
        if cause is None or cause.reason != _KERNEL:
            reasons.append(Frozen(block.tensor, block.axis, int(fixed.size), reason))
    return tuple(reasons)


def _default_reason(solution: Solution, labels: np.ndarray) -> str:
    names = solution.partition.name[labels]
    if (names == FIXED).all():
        return "tied to a size that is fixed"
    return "nothing else follows it" if np.unique(names).size > 1 else "a single unit"
