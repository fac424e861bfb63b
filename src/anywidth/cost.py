"""Cost in closed form: multiply-adds, parameters, activations as functions of the width.

1 multiply-add = 1 MAC (torch's FLOP counter reports 2). Contractions count (convolution, linear, matmul, attention);
biases, norms and activations do not. `convention="slimmable"` adds average pools by their input elements, as the
published tables of Slimmable Networks and DS-Net do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from torch import nn

from anywidth.channels.space import ChannelSpace, Run, Size
from anywidth.errors import WidthError
from anywidth.width import Width

Convention = Literal["anywidth", "slimmable"]
_CHUNK = 8192


class CostModel:
    """All cost formulas of one network, vectorised over widths.

    Each formula is a sum of products of sizes, and each size is linear in the units kept (clipped where an axis follows
    only some units of a group).
    """

    def __init__(self, space: ChannelSpace, shapes: Mapping[str, Sequence[int]]) -> None:
        self.space = space
        self._sizes: dict[Size, int] = {}
        self.macs_terms = self._products([t.sizes for t in space.terms if not t.pool])
        self.pool_terms = self._products([t.sizes for t in space.terms if t.pool])
        self.activation_terms = self._products([t.written for t in space.terms if not t.pool])
        self.param_terms = self._products([_parameter_sizes(space, n, shape) for n, shape in shapes.items()])
        self._runs: list[Run] = []
        self._design()

    def _products(self, terms: Iterable[Sequence[Size]]) -> list[tuple[int, tuple[int, ...]]]:
        """Constant factor and variable sizes of every product; equal products merged."""
        merged: dict[tuple[int, ...], int] = {}
        for sizes in terms:
            factor = 1
            variable = []
            for s in sizes:
                if s.runs:
                    variable.append(self._sizes.setdefault(s, len(self._sizes)))
                else:
                    factor *= s.constant
            key = tuple(sorted(variable))
            merged[key] = merged.get(key, 0) + factor
        return [(factor, key) for key, factor in merged.items()]

    def _design(self) -> None:
        """Sizes as one matrix over clipped runs: size = constant + matrix @ clip(units - first, 0, count)."""
        runs = list(dict.fromkeys(Run(r.group, r.first, r.count, 1) for s in self._sizes for r in s.runs))
        where = {r: i for i, r in enumerate(runs)}
        self._group = np.array([r.group for r in runs], np.int64)
        self._first = np.array([r.first for r in runs], np.float64)
        self._count = np.array([r.count for r in runs], np.float64)
        self._matrix = np.zeros((len(runs), len(self._sizes)))
        self._constant = np.array([s.constant for s in self._sizes], np.float64)
        for s, column in self._sizes.items():
            for r in s.runs:
                self._matrix[where[Run(r.group, r.first, r.count, 1)], column] += r.each

    def total(self, terms: Sequence[tuple[int, tuple[int, ...]]], kept: np.ndarray) -> np.ndarray:
        """Sum of products for every row of `kept` (N x groups, units) -> (N,) int64."""
        out = np.empty(len(kept), np.int64)
        for start in range(0, len(kept), _CHUNK):
            rows = kept[start : start + _CHUNK].astype(np.float64)
            active = np.clip(rows[:, self._group] - self._first, 0, self._count)
            sizes = (active @ self._matrix + self._constant).T.copy()
            total = np.zeros(len(rows))
            for factor, key in terms:
                product = np.full(len(rows), float(factor))
                for k in key:
                    product *= sizes[k]
                total += product
            out[start : start + _CHUNK] = np.rint(total)
        return out

    def macs(self, kept: np.ndarray, convention: Convention = "anywidth") -> np.ndarray:
        if convention not in get_args(Convention):
            raise ValueError(
                f"convention={convention!r} is unknown: use 'anywidth' or 'slimmable' (adds average pools)."
            )
        total = self.total(self.macs_terms, kept)
        return total + self.total(self.pool_terms, kept) if convention == "slimmable" else total

    def params(self, kept: np.ndarray) -> np.ndarray:
        return self.total(self.param_terms, kept)

    def activations(self, kept: np.ndarray) -> np.ndarray:
        return self.total(self.activation_terms, kept)


def _parameter_sizes(space: ChannelSpace, name: str, shape: Sequence[int]) -> list[Size]:
    axes = space.axes.get(name, ())
    sizes = []
    for d, n in enumerate(shape):
        axis = axes[d] if d < len(axes) else None
        if axis is None:
            sizes.append(Size(n))
        else:
            fixed = sum(r.positions for r in axis if r.group < 0)
            sizes.append(Size(fixed, tuple(r for r in axis if r.group >= 0)))
    return sizes


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, tied ones once."""
    return {n: tuple(p.shape) for n, p in model.named_parameters()}


def kept_rows(
    space: ChannelSpace, widths: Sequence[Width] | np.ndarray, resolve: Callable[[object], Width]
) -> np.ndarray:
    """Widths as an (N x groups) array of units: Widths, labels or multipliers, or such an array already."""
    if isinstance(widths, np.ndarray) and widths.ndim == 2:
        if widths.shape[1] != len(space.groups):
            raise WidthError(
                f"an array of widths has one column per channel group ({len(space.groups)}); got {widths.shape[1]}."
            )
        sizes = np.array([g.size for g in space.groups])
        if ((widths < 1) | (widths > sizes)).any():
            row = int(np.flatnonzero(((widths < 1) | (widths > sizes)).any(axis=1))[0])
            raise WidthError(
                f"row {row} of the array of widths has units outside 1..size of a group: {widths[row].tolist()[:6]}..."
            )
        return widths
    return np.array([resolve(w).kept for w in widths], np.int64).reshape(len(widths), len(space.groups))
