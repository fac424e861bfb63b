"""Widths that a search has measured, and those that stand for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anywidth.space.width import Width


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A width that was asked for.

    Attributes:
        width: channels per group.
        cost: in the unit of the search.
        error: its error or loss, when it was measured last; None before.
    """

    width: Width
    cost: float
    error: float | None = None


def front_of(costs: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Positions of the points that none dominates, the cheapest first."""
    # costs 3 1 2 2, errors 0.2 0.5 0.3 0.6 -> positions 1 2 0.
    positions, best = [], np.inf
    for i in np.lexsort((errors, costs)):
        if errors[i] < best:
            positions.append(i)
            best = errors[i]
    return np.array(positions, int)


def representatives(
    costs: np.ndarray, errors: np.ndarray, *, at_most: int, random: np.random.Generator
) -> np.ndarray:
    """Positions of at most `at_most` trials, in order: the front, then the latest, then a random sample.

    A front that alone is longer is thinned evenly.
    """
    # costs 1..6, errors 0.5 0.6 0.4 0.7 0.8 0.9, at most 4: the front 0 2, half of the remaining room for the latest (5), and
    # the rest at random from 1 3 4.
    count = len(costs)
    if count <= at_most:
        return np.arange(count)
    front = front_of(costs, errors)
    if len(front) >= at_most:
        return np.sort(front[np.linspace(0, len(front) - 1, at_most).round().astype(int)])
    kept = dict.fromkeys(front.tolist())
    for i in range(count - 1, -1, -1):
        if len(kept) >= len(front) + (at_most - len(front)) // 2:
            break
        kept.setdefault(i)
    remaining = [i for i in range(count) if i not in kept]
    kept |= dict.fromkeys(random.choice(remaining, at_most - len(kept), replace=False).tolist())
    return np.array(sorted(kept))


def target_weights(bins: np.ndarray, costs: Sequence[float], errors: Sequence[float]) -> np.ndarray:
    """How often each target is drawn in Pareto-aware sampling: by the area between neighbours on the front.

    Args:
        bins: (B,) targets, as costs.
        costs, errors: of all trials.

    Returns:
        (B,) weights with the sum 1; equal ones where the front has no area.

    Source: Chin et al., arXiv 2007.11752v1, Pareto-aware sampling.
    """
    # Front (1, 0.5) (3, 0.3) (5, 0.2), bins 1 2 3 4: areas 2 x 0.2 and 2 x 0.1, shared by two bins each: 1/3 1/3 1/6 1/6.
    x, y = np.array(costs), np.array(errors)
    front = front_of(x, y)
    x, y = x[front], y[front]
    weights = np.zeros(len(bins))
    for lower, upper, up, down in zip(x[:-1], x[1:], y[:-1], y[1:], strict=True):
        inside = (bins >= lower) & (bins < upper)
        if inside.any():
            weights[inside] += (upper - lower) * (up - down) / inside.sum()
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(bins), 1 / len(bins))
