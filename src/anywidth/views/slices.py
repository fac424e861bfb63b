"""Which part of a wide tensor is active, and how it is taken.

an axis of 8 rows, 3 active           -> the prefix [0, 3): a strided alias of the wide tensor
packed q, k, v of 8 rows each, 3 kept -> rows [0, 3), [8, 11), [16, 19): three runs, one period apart: a strided
                                         alias of shape (3, 3, ...), copied once to be one axis of 9 rows
any other rows                        -> an index
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.space.axes import Axis
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width

PLAIN = (Tensor, nn.Parameter)
"""Types of tensors whose memory is what it says; subclasses may compute theirs, or hold a share of it."""


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a share of one that lies in several processes."""
    # Sharded tensors exist only where somebody has imported the package, which takes half a second.
    package = sys.modules.get("torch.distributed.tensor")
    return package is not None and isinstance(tensor, package.DTensor)


@dataclass(frozen=True)
class AxisPlan:
    """What can be said of an axis before the width is known."""

    axis: Axis
    total: int
    prefix: bool  # one run of units from the first on: any nested width is a prefix slice

    @staticmethod
    def of(axis: Axis) -> AxisPlan:
        return AxisPlan(axis, sum(r.positions for r in axis), len(axis) == 1 and axis[0].first == 0)

    def part(self, width: Width) -> slice | Tensor | None:
        """Active positions: a prefix slice where possible, else their numbers; None for all of them."""
        if self.prefix and width.indices is None:
            run = self.axis[0]
            stop = min(width.kept[run.group], run.count) * run.each
            return None if stop == self.total else slice(0, stop)
        axis_parts, start = [], 0
        for r in self.axis:
            if r.group < 0:
                axis_parts.append(np.arange(start, start + r.positions))
            else:
                units = np.asarray(width.units(r.group))
                inside = units[(units >= r.first) & (units < r.first + r.count)] - r.first
                axis_parts.append((start + inside[:, None] * r.each + np.arange(r.each)).ravel())
            start += r.positions
        positions = np.concatenate(axis_parts)
        if positions.size == self.total:
            return None
        if positions[-1] == positions.size - 1:
            return slice(0, int(positions.size))
        return torch.from_numpy(positions)


@dataclass(frozen=True)
class Runs:
    """`count` runs of `length` positions, `period` apart."""

    count: int
    length: int
    period: int


def _runs(positions: Tensor, total: int) -> Runs | None:
    """Positions as equal runs that divide the axis evenly; None if they are no such runs."""
    # positions [0 1 2 8 9 10 16 17 18] of 24: jumps before the entries 3 and 6, so 3 runs of 3, 24 / 3 = 8 apart.
    breaks = torch.nonzero(positions.diff() != 1).ravel() + 1
    count = len(breaks) + 1
    length, uneven_rows = divmod(len(positions), count)
    period, uneven_period = divmod(total, count)
    if uneven_rows or uneven_period:
        return None
    regular = (torch.arange(count)[:, None] * period + torch.arange(length)).ravel()
    return Runs(count, length, period) if torch.equal(positions, regular) else None


@dataclass(frozen=True)
class TensorCut:
    """Which part of a wide tensor is active: one entry per axis."""

    axis_parts: tuple[slice | Tensor | None, ...]

    @property
    def aliases(self) -> bool:
        """Whether the active part shares memory with the wide tensor."""
        return not any(isinstance(p, Tensor) for p in self.axis_parts)

    def of(self, t: Tensor) -> Tensor:
        """The active part: a view of `t` where possible, else a copy."""
        t = self._sliced(t)
        for dim, axis_part in enumerate(self.axis_parts):
            if isinstance(axis_part, Tensor):
                t = t.index_select(dim, axis_part.to(t.device))
        return t

    def write_(self, t: Tensor, value: Tensor) -> None:
        """Write `value` over the active part of `t`."""
        gathered = [d for d, p in enumerate(self.axis_parts) if isinstance(p, Tensor)]
        t = self._sliced(t)
        if not gathered:
            t.copy_(value)
            return
        mesh = torch.meshgrid(*[self.axis_parts[d].to(t.device) for d in gathered], indexing="ij")  # type: ignore[union-attr]
        leading_dims = list(range(len(gathered)))
        t.movedim(gathered, leading_dims).index_put_(mesh, value.movedim(gathered, leading_dims).to(t))

    def _sliced(self, t: Tensor) -> Tensor:
        for dim, axis_part in enumerate(self.axis_parts):
            if isinstance(axis_part, slice):
                t = t.narrow(dim, 0, axis_part.stop)
        return t


class Slice:
    """A cut of tensors of one shape, with everything that does not depend on their values worked out once.

    Args:
        cut: the active part.
        wide: shape of the tensors that it is taken from.

    Attributes:
        shape: of the active part.
        aliases: whether `take` gives a view of its argument.
    """

    def __init__(self, cut: TensorCut, wide_shape: torch.Size) -> None:
        self.cut, self.wide_shape, self.aliases = cut, wide_shape, cut.aliases
        sizes = [
            n if p is None else p.stop if isinstance(p, slice) else len(p)
            for n, p in zip(wide_shape, (*cut.axis_parts, *[None] * len(wide_shape)), strict=False)
        ]
        self.shape = tuple(sizes)
        self._runs = None if self.aliases else self._runs_by_axis()

    def _runs_by_axis(self) -> list[Runs | None] | None:
        """Per axis its runs, None where it is a slice; None if an axis needs an index."""
        runs: list[Runs | None] = [None] * len(self.wide_shape)
        for dim, axis_part in enumerate(self.cut.axis_parts):
            if isinstance(axis_part, Tensor):
                runs[dim] = _runs(axis_part, self.wide_shape[dim])
                if runs[dim] is None:
                    return None
        return runs

    def take(self, t: Tensor) -> Tensor:
        """The active part of `t`, in the graph."""
        if torch.compiler.is_compiling() or type(t) not in PLAIN:
            return self._take_by_parts(t)  # compilers and tensor subclasses know `narrow`, not always strides
        if self.aliases:
            # One operation, one gradient of the wide size; two slices would have two.
            return t.as_strided(self.shape, t.stride())
        if self._runs is None:
            return self.cut.of(t)
        # qkv weight (24, 4), 3 of each 8 rows kept:   shape (24, 4)     stride (4, 1)
        #   runs as an axis of their own              shape (3, 3, 4)   stride (32, 4, 1)
        #   then reshape copies, once, to             shape (9, 4)
        shape, stride = [], []
        for size, step, runs in zip(self.shape, t.stride(), self._runs, strict=True):
            shape += [size] if runs is None else [runs.count, runs.length]
            stride += [step] if runs is None else [runs.period * step, step]
        return t.as_strided(shape, stride).reshape(self.shape)

    def _take_by_parts(self, t: Tensor) -> Tensor:
        if self.aliases or self._runs is None:
            return self.cut.of(t)
        for dim, (axis_part, runs) in enumerate(zip(self.cut.axis_parts, self._runs, strict=False)):
            if isinstance(axis_part, slice):
                t = t.narrow(dim, 0, axis_part.stop)
            elif runs is not None:
                t = t.unflatten(dim, (runs.count, runs.period)).narrow(dim + 1, 0, runs.length)
                t = t.flatten(dim, dim + 1)
        return t


def cut(space: ChannelSpace, name: str, width: Width) -> TensorCut | None:
    """The active part of a tensor at a width; None if it is all of it."""
    axes = space.axes.get(name)
    return None if axes is None else cut_by([None if a is None else AxisPlan.of(a) for a in axes], width)


def cut_by(plans: Sequence[AxisPlan | None], width: Width) -> TensorCut | None:
    axis_parts = tuple([None if p is None else p.part(width) for p in plans])
    return TensorCut(axis_parts) if any(p is not None for p in axis_parts) else None
