"""Label vectors and sizes as runs of units."""

from __future__ import annotations

from typing import Any

import numpy as np

from anywidth.space.axes import Axis, Run, Size
from anywidth.tracing.labels import Block
from anywidth.tracing.solution import Solution
from anywidth.tracing.symbolic_sizes import DimSize, Form, beside


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

    def axis(self, block: Block) -> Axis:
        names = self.solution.partition.name[block.start : block.start + block.size]
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
        return self._size(form.constant, atoms, counts)

    def _size(self, constant: int, atoms: np.ndarray, counts: np.ndarray) -> Size:
        """`constant` and so many positions of each label set."""
        group, rank = self.group_of[atoms], self.rank_of[atoms]
        fixed = group < 0
        order = np.lexsort((rank, group))[int(fixed.sum()) :]
        return Size(constant + int(counts[fixed].sum()), _runs(group[order], rank[order], counts[order]))

    def size(self, size: int | DimSize) -> Size:
        if isinstance(size, int):
            return Size(size)
        vectors = [self.solution.partition.name[v] for v in size.vectors()]
        key = tuple(
            (names.tobytes(), beside(s, size.dim)) for s, names in zip(size.shadows, vectors, strict=True)
        )
        if key not in self._known:
            self._known[key] = self._size_along(size, vectors)
        return self._known[key]

    def _size_along(self, size: DimSize, vectors: list[np.ndarray]) -> Size:
        if len(vectors) == 1 and not beside(size.shadows[0], size.dim):
            return self._size(0, *np.unique(vectors[0], return_counts=True))
        form = self.solution.form(size)
        return Size(size.size) if form is None else self.size_of_form(form)
