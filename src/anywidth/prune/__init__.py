"""Pruning: order channels by importance, keep the best, cut the rest."""

from anywidth.prune.compact import compact, masked
from anywidth.prune.importance import Criterion, scores
from anywidth.prune.plan import Plan, plan, planned

__all__ = ["Criterion", "Plan", "compact", "masked", "plan", "planned", "scores"]
