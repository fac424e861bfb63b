"""Pruning: order channels by importance, keep the best, cut the rest."""

from anywidth.prune.compact import compact, kept_by_norm
from anywidth.prune.criteria import CRITERIA, Criterion, Source, criterion_of, criterion_of_sources
from anywidth.prune.importance import scores
from anywidth.prune.masked import masked
from anywidth.prune.plan import plan, planned
from anywidth.prune.plan_config import PlanConfig
from anywidth.prune.ranking import Plan
from anywidth.prune.saved import ABOUT, again, cut_, read, rebuilt, write

__all__ = [
    "ABOUT",
    "CRITERIA",
    "Criterion",
    "Plan",
    "PlanConfig",
    "Source",
    "again",
    "compact",
    "criterion_of",
    "criterion_of_sources",
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
