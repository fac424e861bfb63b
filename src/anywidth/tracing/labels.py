"""Channel labels: which channel every element of a tensor belongs to, and which channels live and die together.

A *shadow* is an integer tensor that broadcasts to the shape of the tensor it follows: its entry at a position is
the label of the channel found there, and it has size 1 along every dimension in which the label does not vary.
Label 0 means "not a channel that may go": fixed sizes, inputs, outputs. A tensor carries one shadow per channel
axis (a convolution weight has two).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

FIXED = 0

# Example: y = x @ w.T with w of shape (8, 5), x of shape (2, 5). w has two shadows: (8, 1) with the labels 1..8 of its rows
# and (1, 5) with the labels 9..13 of its columns. If the columns of x carry the labels 14..18, as a shadow of shape (1, 5),
# the product equates 9..13 with 14..18, and y (2, 8) gets the shadow (1, 8) with 1..8.


@dataclass(frozen=True, kw_only=True)
class Block:
    """A run of fresh labels: the channels of one axis of one parameter, or of one size computed by the model."""

    start: int
    size: int
    tensor: str | None = None
    axis: int = 0


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A two-way table of labels seen along fewer dimensions: heads of (heads, dim), say.

    Dense tensors lose whole slices, so of a table's dimensions one at most is elastic. If that one is kept, the
    slice labels equal the table's; if not, the slices never go.
    """

    table: Tensor
    keep: tuple[int, ...]
    target: Tensor
    contraction: bool
    where: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A shadow that varies along several dimensions at once, with the dimension it should lose, if known."""

    table: Tensor
    prefer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Labels made fixed, and why."""

    labels: np.ndarray
    reason: str
    where: str


@dataclass
class Ledger:
    """Everything a trace learns about labels, in order; nothing is solved here."""

    count: int = 1
    blocks: list[Block] = field(default_factory=list)
    pairs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    ordered: list[np.ndarray] = field(default_factory=list)
    summed: list[np.ndarray] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)
    _dead: np.ndarray = field(default_factory=lambda: np.ones(1, bool))
    _stiff: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def alive(self, shadow: Tensor) -> bool:
        """Whether any label is not yet frozen outright."""
        if self._dead.size < self.count:
            self._dead = np.concatenate([self._dead, np.zeros(self.count - self._dead.size, bool)])
        return not bool(self._dead[shadow.numpy()].all())

    def fresh(self, size: int, *, tensor: str | None = None, axis: int = 0) -> Tensor:
        """`size` new labels, as a 1-d tensor."""
        block = Block(start=self.count, size=size, tensor=tensor, axis=axis)
        self.blocks.append(block)
        self.count += size
        return torch.arange(block.start, block.start + size)

    def fresh_count(self, size: int) -> Tensor:
        """New labels for a dimension that comes out of nothing but a number: channels, or as many copies of something."""
        self.counts.append(self.fresh(size))
        return self.counts[-1]

    def is_count(self, shadow: Tensor) -> bool:
        """Whether labels come out of a number."""
        lowest, highest = int(shadow.min()), int(shadow.max())
        return any(int(c[0]) <= lowest and highest <= int(c[-1]) for c in self.counts)

    def equate(self, a: Tensor, b: Tensor) -> None:
        """Channels at equal positions of two broadcastable shadows live and die together."""
        a, b = torch.broadcast_tensors(a, b)
        x, y = a.reshape(-1).numpy(), b.reshape(-1).numpy()
        differ = x != y
        if differ.any():
            self.pairs.append((x[differ], y[differ]))

    def freeze(self, labels: Tensor, reason: str, where: str) -> None:
        """These channels never go."""
        values = np.unique(labels.numpy())
        values = values[values != FIXED]
        if values.size:
            self.alive(labels)
            self._dead[values] = True
            self.pairs.append((values, np.zeros_like(values)))
            self.freezes.append(Freeze(labels=values, reason=reason, where=where))

    def rigid(self, shadow: Tensor, dim: int, reason: str, where: str) -> None:
        """Dimension `dim` keeps its size: its channels are frozen, or, in a table, tied to those along the other dimension."""
        if shadow.shape[dim] == 1 or (id(shadow), dim) in self._stiff:
            return
        self._stiff[id(shadow), dim] = shadow  # kept, so that no other shadow gets its id
        if len(varying(shadow)) == 1:
            self.freeze(shadow, reason, where)
        else:
            self.equate(shadow, shadow.narrow(dim, 0, 1))

    def project(
        self, shadow: Tensor, keep: tuple[int, ...], target: Tensor | None, where: str, *, contraction: bool
    ) -> Tensor:
        """The labels of `shadow` seen along dimensions `keep`; `target` where such labels exist already."""
        # Attention scores sum a query (tokens, heads, dim) over dim: the shadow is (1, heads, dim), keep is (1,), and the scores
        # carry one label per head. Whether heads or dims are what goes is decided later (`solve._decide_tables`); until
        # then the pair (table, labels of its slices) is only noted.
        dims = varying(shadow)
        inside = tuple(d for d in keep if d in dims)
        if target is None:
            target = self._slice_labels(shadow, inside)
        order = torch.broadcast_to(
            target, [max(s, t) for s, t in zip(shadow.shape, target.shape, strict=True)]
        )
        index = tuple(slice(None) if d in dims else 0 for d in range(shadow.ndim))
        self.projections.append(
            Projection(
                table=shadow[index],
                keep=tuple(dims.index(d) for d in inside),
                target=order[index],
                contraction=contraction,
                where=where,
            )
        )
        return target

    def _slice_labels(self, shadow: Tensor, keep: tuple[int, ...]) -> Tensor:
        """Fresh labels for the slices of `shadow`; equal slices (the same heads in every window) get equal labels."""
        # [[1, 2, 3], [4, 5, 6]] along dimension 0 -> [[7], [8]]; [[1, 2], [4, 5], [1, 2]] -> [[7], [8], [7]].
        shape = [shadow.shape[d] if d in keep else 1 for d in range(shadow.ndim)]
        rows = shadow.permute(*keep, *(d for d in range(shadow.ndim) if d not in keep)).reshape(
            math.prod(shape), -1
        )
        first_column = rows[:, :1]
        # Rows that differ by an offset alone are told apart by their first entry: `unique` over (rows, 1) is much
        # faster than over whole rows.
        same_elsewhere = bool((rows - first_column == rows[:1] - first_column[:1]).all())
        _, inverse = np.unique(
            (first_column if same_elsewhere else rows).numpy(), axis=0, return_inverse=True
        )
        inverse = inverse.ravel()
        return self.fresh(int(inverse.max()) + 1)[torch.from_numpy(inverse)].reshape(shape)


def varying(shadow: Tensor) -> list[int]:
    """Dimensions along which the label changes."""
    return [d for d, size in enumerate(shadow.shape) if size > 1]


def as_shadow(full: Tensor) -> Tensor | None:
    """A shadow from labels spelled out in full: size 1 wherever the label is constant; None if it is everywhere."""
    # [[3, 4], [3, 4]] -> [[3, 4]]: nothing changes along dimension 0.
    if 0 in full.shape:
        return None
    # Stride 0 (an expanded dimension) proves it without comparing any labels.
    for d in range(full.ndim):
        if full.stride(d) == 0:
            full = full.narrow(d, 0, 1)
    for d in range(full.ndim):
        if full.shape[d] > 1:
            first_slice = full.narrow(d, 0, 1)
            # Comparing two slices is cheap and rules out most dimensions that vary; only if they agree are all compared.
            if torch.equal(first_slice, full.narrow(d, 1, 1)) and bool((full == first_slice).all()):
                full = first_slice
    return full if any(s > 1 for s in full.shape) else None


class Partition:
    """Sets of labels that live and die together, merged on demand; a set's name is its smallest label."""

    def __init__(self, count: int) -> None:
        self.name = np.arange(count)

    def merge(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Join the sets of `a[i]` and `b[i]` for every i; True if anything changed."""
        # name = [0, 1, 2, 3, 4, 5]; merge [1, 4] with [2, 5] -> [0, 1, 1, 3, 4, 4]; merge [2] with [4] -> [0, 1, 1, 3, 1, 1].
        # Every set that has a neighbour of a smaller name is hung on the smallest such, and names of names are followed to their end,
        # until no two neighbours differ. Two rounds at least halve the sets that are left, whatever the equalities.
        a, b = self.name[a].ravel(), self.name[b].ravel()
        differ = a != b
        if not differ.any():
            return False
        name, joined = self.name.copy(), np.concatenate([a[differ], b[differ]])
        while differ.any():
            a, b = np.minimum(a[differ], b[differ]), np.maximum(a[differ], b[differ])
            np.minimum.at(name, b, a)
            while not np.array_equal(followed := name[name[joined]], name[joined]):
                name[joined] = followed
            a, b = name[a], name[b]
            differ = a != b
        self.name = name[name]
        return True

    def fix(self, labels: np.ndarray) -> bool:
        """Join the sets of these labels to that of label 0; True if anything changed."""
        # As `merge` with zeros would, but in one step: 0 is smaller than every name.
        names = self.name[labels]
        if not names.any():
            return False
        fixed = np.zeros(self.name.size, bool)
        fixed[names] = True
        self.name = np.where(fixed[self.name], FIXED, self.name)
        return True
