"""Which part of a wide tensor is active at a width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anywidth.channels.space import Axis, ChannelSpace
from anywidth.width import Width


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
        parts, start = [], 0
        for r in self.axis:
            if r.group < 0:
                parts.append(np.arange(start, start + r.positions))
            else:
                units = np.asarray(width.units(r.group))
                mine = units[(units >= r.first) & (units < r.first + r.count)] - r.first
                parts.append((start + mine[:, None] * r.each + np.arange(r.each)).ravel())
            start += r.positions
        chosen = np.concatenate(parts)
        if chosen.size == self.total:
            return None
        if chosen[-1] == chosen.size - 1:
            return slice(0, int(chosen.size))
        return torch.from_numpy(chosen)


@dataclass(frozen=True)
class Cut:
    """Which part of a wide tensor is active: one entry per axis."""

    parts: tuple[slice | Tensor | None, ...]

    @property
    def aliases(self) -> bool:
        return not any(isinstance(p, Tensor) for p in self.parts)

    def of(self, t: Tensor) -> Tensor:
        """The active part: a view of `t` where possible, else a copy."""
        for dim, part in enumerate(self.parts):
            if isinstance(part, slice):
                t = t.narrow(dim, 0, part.stop)
            elif part is not None:
                t = t.index_select(dim, part.to(t.device))
        return t

    def add_(self, t: Tensor, value: Tensor) -> None:
        """Add `value` to the active part of `t`."""
        if self.aliases:
            self.of(t).add_(value)
            return
        gathered = [d for d, p in enumerate(self.parts) if isinstance(p, Tensor)]
        t = self._sliced(t)
        if len(gathered) == 1:
            t.index_add_(gathered[0], self.parts[gathered[0]].to(t.device), value)  # type: ignore[union-attr]
        else:
            self._put(t, gathered, value, accumulate=True)

    def write_(self, t: Tensor, value: Tensor) -> None:
        """Write `value` over the active part of `t`."""
        if self.aliases:
            self.of(t).copy_(value)
        else:
            self._put(self._sliced(t), [d for d, p in enumerate(self.parts) if isinstance(p, Tensor)], value)

    def _sliced(self, t: Tensor) -> Tensor:
        for dim, part in enumerate(self.parts):
            if isinstance(part, slice):
                t = t.narrow(dim, 0, part.stop)
        return t

    def _put(self, t: Tensor, gathered: list[int], value: Tensor, *, accumulate: bool = False) -> None:
        mesh = torch.meshgrid(*[self.parts[d].to(t.device) for d in gathered], indexing="ij")  # type: ignore[union-attr]
        first = list(range(len(gathered)))
        t.movedim(gathered, first).index_put_(mesh, value.movedim(gathered, first), accumulate=accumulate)


def cut(space: ChannelSpace, name: str, width: Width) -> Cut | None:
    """The active part of a tensor at a width; None if it is all of it."""
    axes = space.axes.get(name)
    return None if axes is None else cut_by([None if a is None else AxisPlan.of(a) for a in axes], width)


def cut_by(plans: Sequence[AxisPlan | None], width: Width) -> Cut | None:
    parts = tuple([None if p is None else p.part(width) for p in plans])
    return Cut(parts) if any(p is not None for p in parts) else None
