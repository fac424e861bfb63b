"""Candidate widths as arrays: (N, groups) shares of the range between the narrowest and the widest, and their costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import qmc

from anywidth.errors import WidthError
from anywidth.search.group_steps import quantum
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width

Rows = Callable[[np.ndarray], np.ndarray]
"""Units (N, groups) -> costs (N,)."""

_HALVINGS = 12


@dataclass(frozen=True)
class Box:
    """The widths between two uniform ones, the same share or a share of its own in every group.

    Args:
        space: of the network.
        low, high: ratios, 0 < low < high <= 1.

    Raises:
        WidthError: another range, or one in which all widths are the same.
    """

    space: ChannelSpace
    low: float
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high <= 1:
            raise WidthError(f"range of widths: expected 0 < low < high <= 1, got {self.low} and {self.high}")
        if (self.least == self.most).all():
            raise WidthError(
                f"range of widths: {self.low} to {self.high} is one width only, as numbers of channels are rounded"
            )

    @cached_property
    def least(self) -> np.ndarray:
        return np.array(self.space.uniform(self.low).kept)

    @cached_property
    def most(self) -> np.ndarray:
        return np.array(self.space.uniform(self.high).kept)

    @property
    def dims(self) -> int:
        return len(self.least)

    def units(self, shares: np.ndarray) -> np.ndarray:
        """(N, groups) in [0, 1] -> units, rounded as each group asks."""
        # A group of 64 units with divisor 8, range 0.25 to 1: shares 0, 0.3, 0.5, 1 -> 16, 32, 40, 64 units.
        sizes, fewest = np.array(self.space.full.kept), np.array(self.space.smallest.kept)
        quanta = np.array([quantum(group) for group in self.space.groups])
        unrounded_units = sizes * (self.low + (self.high - self.low) * shares)
        units = np.maximum(fewest, quanta * np.floor(unrounded_units / quanta + 0.5))  # as `round_units`
        units += quanta * (units < 0.9 * unrounded_units)
        units = np.where(unrounded_units >= sizes, sizes, np.minimum(units, sizes))
        return np.clip(units.astype(int), self.least, self.most)

    def shares(self, units: np.ndarray) -> np.ndarray:
        """(N, groups) units -> where they are between the narrowest, 0, and the widest, 1."""
        return (units - self.least) / np.maximum(self.most - self.least, 1)

    def nearest(self, shares: np.ndarray) -> np.ndarray:
        """The inverse of `shares`, without the rounding of groups."""
        return np.rint(self.least + shares * (self.most - self.least)).astype(int)

    def width(self, units: np.ndarray) -> Width:
        """One row of units as a width."""
        return Width(names=self.space.names, kept=tuple(int(u) for u in units))


def quasi_random(random: np.random.Generator, count: int, dims: int) -> np.ndarray:
    """(count, dims) quasi-random points: each about a level of its own, between all groups alike and all different."""
    # Sobol points are balanced in powers of two only, hence the rounding up. Two extra dimensions per point: its level, and
    # how far its groups reach from it. In hundreds of independent dimensions every point would cost about the same.
    power = int(np.ceil(np.log2(max(count, 2))))
    points = qmc.Sobol(dims + 2, rng=random).random_base2(power)[:count]
    level, reach, directions = points[:, :1], points[:, 1:2], points[:, 2:]
    return np.clip(level + reach * (directions - 0.5), 0, 1)


def mutated(random: np.random.Generator, parents: np.ndarray, count: int) -> np.ndarray:
    """(count, dims) children of (P, dims) shares: some groups of a parent moved by steps of many lengths."""
    # A child moves 1.5 groups of its parent on average, or 30 % of them, or all, by steps of 0.01 to 0.3.
    dims = parents.shape[1]
    children = parents[random.integers(len(parents), size=count)]
    chance = random.choice([1.5 / dims, 0.3, 1.0], size=(count, 1))
    moved = random.random((count, dims)) < chance
    length = 10 ** random.uniform(-2, -0.5, size=(count, 1))
    return np.clip(children + moved * length * random.standard_normal((count, dims)), 0, 1)


def at_cost(box: Box, cost: Rows, shares: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each row moved towards the narrowest or the widest width until it costs about its target.

    Args:
        shares: (N, groups).
        targets: (N,) costs.

    Returns:
        (N, groups) shares; all on the straight lines from the rows to one of the two ends.
    """
    # Bisection on all N rows at once: row i lies at shares + t (end - shares), t in [0, 1], where the end is 0 for rows that
    # cost too much and 1 for those that cost too little; 12 halvings are finer than one unit of a group of 2048.
    down = cost(box.units(shares)) > targets
    ends = np.where(down[:, None], 0.0, 1.0)
    low, high = np.zeros(len(shares)), np.ones(len(shares))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        moved = shares + middle[:, None] * (ends - shares)
        spent = cost(box.units(moved))
        enough = np.where(down, spent <= targets, spent >= targets)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return shares + ((low + high) / 2)[:, None] * (ends - shares)


def within(box: Box, cost: Rows, shares: np.ndarray, limit: float) -> np.ndarray:
    """Rows that cost more than the limit moved towards the narrowest width until they do not.

    The narrowest width has to cost at most the limit.
    """
    over = cost(box.units(shares)) > limit
    low, high = np.zeros(len(shares)), np.where(over, 1.0, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = cost(box.units(shares * (1 - middle[:, None]))) <= limit
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return shares * (1 - high[:, None])
