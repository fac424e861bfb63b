"""Label vectors and sizes as runs of units."""

from __future__ import annotations

from typing import Any

import numpy as np

from anywidth.space.axes import Axis, Run, Size
from anywidth.tracing.solution import Solution
from anywidth.tracing.symbolic_sizes import DimSize, Form


def _runs(group: np.ndarray, rank: np.ndarray, positions: np.ndarray) -> Axis:
    """Merge consecutive units, each of a group, a rank in it and a number of positions, into runs."""
    # (0, 0, 2) (0, 1, 2) (-1, 0, 3) -> Run(group 0, first 0, count 2, each 2), Run(group -1, first 0, count 1, each 3):
    # two units of two positions each, then three fixed positions.
    if not group.size:
        return ()
    follows = (group[1:] == group[:-1]) & (group[1:] >= 0) & (positions[1:] == positions[:-1])
    follows &= rank[1:] == rank[:-1] + 1
    starts = np.concatenate([[0], np.flatnonzero(~follows) + 1])
    counts = np.diff(np.concatenate([starts, [group.size]]))
    first = np.where(group[starts] < 0, 0, rank[starts])
    columns = (group[starts].tolist(), first.tolist(), counts.tolist(), positions[starts].tolist())
    return tuple(Run(*row) for row in zip(*columns, strict=True))


class Coder:
    """Label vectors as runs of units."""

    def __init__(self, solution: Solution, group_of: np.ndarray, rank_of: np.ndarray) -> None:
        self.solution, self.group_of, self.rank_of = solution, group_of, rank_of
        self._known: dict[Any, Any] = {}  # many axes and sizes are the same

    def axis(self, labels: np.ndarray) -> Axis:
        names = self.solution.partition.name[labels]
        key = names.tobytes()
        if key not in self._known:
            self._known[key] = self._axis(names)
        return self._known[key]

    def _axis(self, names: np.ndarray) -> Axis:
        # group 0 0 0 0 -1 -1, rank 0 0 1 1 0 0: cut where either changes -> starts 0, 2, 4, lengths 2, 2, 2.
        group, rank = self.group_of[names], self.rank_of[names]
        rank = np.where(group < 0, 0, rank)
        cut = np.flatnonzero((np.diff(group) != 0) | (np.diff(rank) != 0)) + 1
        starts = np.concatenate([[0], cut])
        lengths = np.diff(np.concatenate([starts, [names.size]]))
        return _runs(group[starts], rank[starts], lengths)

    def size_of_form(self, form: Form) -> Size:
        atoms = np.fromiter(form.terms.keys(), np.int64, len(form.terms))
        counts = np.fromiter(form.terms.values(), np.int64, len(form.terms))
        group, rank = self.group_of[atoms], self.rank_of[atoms]
        constant = form.constant + int(counts[group < 0].sum())
        order = np.lexsort((rank, group))[int((group < 0).sum()) :]
        return Size(constant, _runs(group[order], rank[order], counts[order]))

    def size(self, size: int | DimSize) -> Size:
        if isinstance(size, int):
            return Size(size)
        key = tuple(
            (
                self.solution.partition.name[v].tobytes(),
                any(n > 1 for d, n in enumerate(s.shape) if d != size.dim),
            )
            for s, v in zip(size.shadows, size.vectors(), strict=True)
        )
        if key not in self._known:
            form = self.solution.form(size)
            self._known[key] = Size(size.size) if form is None else self.size_of_form(form)
        return self._known[key]
