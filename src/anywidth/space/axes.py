"""What follows a channel group: axes of parameters, sizes in closed form, attributes, contractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from anywidth.space.width import Width


@dataclass(frozen=True)
class Run:
    """`count` consecutive units of a group from `first` on, each `each` positions wide; group -1 is fixed."""

    group: int
    first: int
    count: int
    each: int

    @property
    def positions(self) -> int:
        return self.count * self.each


Axis = tuple[Run, ...]


def spelled_out(axis: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Group and unit of every position along an axis; group -1 where it is fixed."""
    # Run(0, 0, 2, 2), Run(-1, 0, 1, 3) -> group 0 0 0 0 -1 -1 -1, unit 0 0 1 1 0 0 0.
    group = np.concatenate([np.full(r.positions, r.group) for r in axis])
    unit = np.concatenate([np.repeat(r.first + np.arange(r.count), r.each) for r in axis])
    return group, unit


@dataclass(frozen=True)
class Size:
    """A size in closed form: `constant + sum of each x (units kept among first..first+count)`."""

    constant: int
    runs: tuple[Run, ...] = ()

    @property
    def full(self) -> int:
        """The size in the wide network."""
        return self.constant + sum(r.positions for r in self.runs)

    def at(self, width: Width) -> int:
        # 3 + Run(group 0, first 0, count 8, each 2) with 5 units kept: 3 + 2 x 5 = 13. A run that starts at unit 4 of the
        # group has 5 - 4 = 1 of its units kept.
        total = self.constant
        for r in self.runs:
            units = width.units(r.group)
            if isinstance(units, range):
                total += r.each * min(max(len(units) - r.first, 0), r.count)
            else:
                total += r.each * sum(r.first <= u < r.first + r.count for u in units)
        return total


@dataclass(frozen=True)
class AttributeRule:
    """An integer attribute of a module that follows the width."""

    module: str
    name: str
    index: int | None
    size: Size


@dataclass(frozen=True)
class NumberRule:
    """A float attribute of a module, or a buffer of one element, that goes with a power of a size: `head_dim ** -0.5`."""

    module: str
    name: str
    size: Size
    power: float

    def factor(self, width: Width) -> float:
        """What the wide network's number is multiplied by."""
        return (self.size.at(width) / self.size.full) ** self.power


@dataclass(frozen=True)
class Term:
    """The product of `sizes`: multiply-adds of one contraction (or elements of one average pool's input)."""

    module: str
    sizes: tuple[Size, ...]
    written: tuple[Size, ...]
    pool: bool


@dataclass(frozen=True)
class Frozen:
    """Channels that stay, and why."""

    UNUSED: ClassVar[str] = "not used by the traced forward"

    tensor: str
    axis: int
    channels: int
    reason: str


def runs_of(rows: Sequence[Sequence[int]]) -> tuple[Run, ...]:
    return tuple(Run(*row) for row in rows)


def packed(value: Any) -> Any:
    """Fields of the classes here for JSON: runs as short lists, to keep it small."""
    if isinstance(value, dict):
        if value.keys() == {"group", "first", "count", "each"}:
            return [value["group"], value["first"], value["count"], value["each"]]
        return {k: packed(v) for k, v in value.items()}
    return [packed(v) for v in value] if isinstance(value, list | tuple) else value


def size_of(d: dict[str, Any]) -> Size:
    return Size(d["constant"], runs_of(d["runs"]))


def attribute_of(d: dict[str, Any]) -> AttributeRule:
    return AttributeRule(d["module"], d["name"], d["index"], size_of(d["size"]))


def number_of(d: dict[str, Any]) -> NumberRule:
    return NumberRule(d["module"], d["name"], size_of(d["size"]), d["power"])


def term_of(d: dict[str, Any]) -> Term:
    return Term(d["module"], tuple(map(size_of, d["sizes"])), tuple(map(size_of, d["written"])), d["pool"])
