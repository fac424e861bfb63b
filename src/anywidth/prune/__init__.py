"""Pruning: order channels by importance, keep the best, cut the rest."""

from anywidth.prune.compact import compact, kept_by_norm, masked
from anywidth.prune.importance import Criterion, scores
from anywidth.prune.plan import plan, planned
from anywidth.prune.ranking import Plan
from anywidth.prune.saved import ABOUT, again, cut_, read, rebuilt, write

__all__ = [
    "ABOUT",
    "Criterion",
    "Plan",
    "again",
    "compact",
    "cut_",
    "kept_by_norm",
    "masked",
    "plan",
    "planned",
    "read",
    "rebuilt",
    "scores",
    "write",
]
