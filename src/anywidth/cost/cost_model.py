"""Cost in closed form: multiply-adds, parameters, activations as functions of the width.

1 multiply-add = 1 MAC (torch's FLOP counter reports 2). Contractions count (convolution, linear, matmul, attention);
biases, norms and activations do not. `convention="slimmable"` adds average pools by their input elements, as the
published tables of Slimmable Networks and DS-Net do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import numpy as np
from torch import nn

from anywidth.compat.module_state import MODULES, PARAMETERS
from anywidth.errors import WidthError
from anywidth.space.axes import Size
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width
from anywidth.tracing.opaque_modules import open_modules

Convention = Literal["anywidth", "slimmable"]
_ELEMENTS = 2**21  # of intermediate arrays
_ONE = -1


@dataclass(frozen=True)
class Products:
    """Products of sizes: `factors[t] x sizes[columns[0, t]] x sizes[columns[1, t]] ...`; column -1 is the size 1."""

    factors: np.ndarray
    columns: np.ndarray


class CostModel:
    """All cost formulas of one network, vectorised over widths.

    Each formula is a sum of products of sizes, and each size is linear in the units kept (clipped where an axis follows
    only some units of a group).
    """

    def __init__(self, space: ChannelSpace, shapes: Mapping[str, Sequence[int]]) -> None:
        self._sizes: dict[Size, int] = {}
        self.macs_terms = self._products([t.sizes for t in space.terms if not t.pool])
        self.pool_terms = self._products([t.sizes for t in space.terms if t.pool])
        self.activation_terms = self._products([t.written for t in space.terms if not t.pool])
        self.param_terms = self._products([_parameter_sizes(space, n, shape) for n, shape in shapes.items()])
        self._design()

    def _products(self, terms: Iterable[Sequence[Size]]) -> Products:
        """Constant factor and variable sizes of every product; equal products merged."""
        # conv 3x3 of 8 elastic input channels at 4 positions: sizes 9, s, 4 -> factor 36, columns [0]; at s = 3: 108 MACs, at 8: 288.
        # Repeated blocks give equal products, which become one row with the sum of their factors.
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
        longest = max(map(len, merged), default=0)
        rows = [[*key, *[_ONE] * (longest - len(key))] for key in merged]
        columns = np.array(rows, np.int64).reshape(len(rows), longest).T
        return Products(np.array(list(merged.values()), np.float64), columns)

    def _design(self) -> None:
        """Sizes as sums over clipped runs: size = constant + sum of each x clip(units - first, 0, count).

        The runs of all sizes stand in one row, one size after the other; `_starts` says where each begins, and one more size,
        that of no run, is 1.
        """
        runs = [r for s in self._sizes for r in s.runs]
        self._group = np.array([r.group for r in runs], np.int64)
        self._first = np.array([r.first for r in runs], np.float64)
        self._count = np.array([r.count for r in runs], np.float64)
        self._each = np.array([r.each for r in runs], np.float64)
        self._starts = np.cumsum([0, *(len(s.runs) for s in self._sizes)], dtype=np.int64)[:-1]
        self._constant = np.array([s.constant for s in self._sizes], np.float64)

    def _sizes_at(self, rows: np.ndarray) -> np.ndarray:
        """(N, groups) units -> (N, sizes + 1) sizes, the last one 1."""
        # rows (N, groups) -> [:, group] (N, runs) -> clipped to each run -> summed over the runs of a size (N, sizes) -> + constant.
        sizes = np.ones((len(rows), len(self._sizes) + 1))
        if len(self._sizes):
            active = np.minimum(np.maximum(rows[:, self._group] - self._first, 0), self._count) * self._each
            sizes[:, :-1] = np.add.reduceat(active, self._starts, axis=1) + self._constant
        return sizes

    def total(self, terms: Products, kept: np.ndarray) -> np.ndarray:
        """Sum of products for every row of `kept` (N x groups, units) -> (N,) int64."""
        # Rows go in chunks, so that no array has more than about 2^21 elements (16 MB). In float64 integers are exact up to 2^53, or
        # 9e15 MACs; the final sum is rounded back.
        out = np.empty(len(kept), np.int64)
        chunk = max(1, _ELEMENTS // max(1, len(terms.factors), len(self._group)))
        for start in range(0, len(kept), chunk):
            sizes = self._sizes_at(kept[start : start + chunk].astype(np.float64))
            product = np.broadcast_to(terms.factors, (len(sizes), len(terms.factors)))
            for column in terms.columns:
                product = product * sizes[:, column]
            out[start : start + chunk] = np.rint(product.sum(axis=1))
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
    sizes = []
    for d, n in enumerate(shape):
        axis = space.axis(name, d)
        if axis is None:
            sizes.append(Size(n))
        else:
            fixed = sum(r.positions for r in axis if r.group < 0)
            sizes.append(Size(fixed, tuple(r for r in axis if r.group >= 0)))
    return sizes


def parameter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, tied ones once."""
    return {n: tuple(p.shape) for n, p in model.named_parameters()}


class TensorShapes:
    """The shapes of a model's parameters, and a quick look whether they may have changed since."""

    def __init__(self, model: nn.Module) -> None:
        self.shapes = parameter_shapes(model)
        modules = list(open_modules(model).values())
        self._children = [m.__dict__[MODULES] for m in modules if m.__dict__[MODULES]]
        self._tensors = [m.__dict__[PARAMETERS] for m in modules if m.__dict__[PARAMETERS]]
        self._snapshot = self._look()

    def _look(self) -> tuple[list, list]:
        children = chain.from_iterable(map(dict.values, self._children))
        return list(children), list(map(id, chain.from_iterable(map(dict.values, self._tensors))))

    @property
    def fresh(self) -> bool:
        """Whether the model has the same modules and parameters as then."""
        return self._look() == self._snapshot


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
