"""The state of one trace: which shadows every live tensor carries, where in the model we are, what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from anywidth.compat.tensors import storage_address
from anywidth.tracing.labels import Ledger, Table, varying
from anywidth.tracing.opaque_results import OpaqueResults
from anywidth.tracing.records import Contraction, Demand, Derived
from anywidth.tracing.symbolic_sizes import Attribute, DimSize, Expression


@dataclass
class Walk:
    """What rules read and write while the model runs."""

    ledger: Ledger = field(default_factory=Ledger)
    contractions: list[Contraction] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    compared: list[tuple[Expression, Expression]] = field(default_factory=list)
    unknown: dict[tuple[str, str], None] = field(default_factory=dict)
    relabel: frozenset[int] = frozenset()
    splits: list[tuple[str, list[Tensor]]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    free_outputs: set[str] = field(default_factory=set)
    output_shapes: list[tuple[int, ...]] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    buffers: set[str] = field(default_factory=set)
    read_as_float: dict[Attribute, None] = field(default_factory=dict)
    derived: list[Derived] = field(default_factory=list)
    summed_by_activations: list[np.ndarray] = field(default_factory=list)
    embedded: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    summed_sizes: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    lengths: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    overwritten: set[str] = field(default_factory=set)  # parameters that the forward writes to
    random: bool = False  # whether the forward draws random numbers
    module: str = ""
    operation: str = ""
    opaque: OpaqueResults = field(default_factory=OpaqueResults)
    read: list[np.ndarray] = field(default_factory=list)
    written: list[np.ndarray] = field(default_factory=list)
    # Path of a batch norm -> bits of the model's tensors that its input depends on, and of its own (`tensors_of`).
    normalised: dict[str, int] = field(default_factory=dict)
    _weights: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    # Address of a storage -> bits of the tensors it depends on.
    _sources: dict[int, int] = field(default_factory=dict)
    _bits: dict[str, int] = field(default_factory=dict)
    _positions: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    _shadows: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    _blank: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    @property
    def where(self) -> str:
        return f"{self.operation} in {self.module or '<root>'}"

    def shadows(self, t: Tensor) -> list[Tensor]:
        return self._shadows.get(t) or []

    def depends(self, inputs: Sequence[Tensor], outs: Sequence[Tensor], names: Mapping[int, str]) -> None:
        """Note which of the model's tensors the outputs of an operation depend on.

        x = conv(input, w1); y = norm(x, ..., mean2): x depends on {w1}, and the norm of mean2 normalises what depends on {w1}.
        """
        # Sets of names are integers with one bit per name, which makes the union over thousands of operations cheap. Results are
        # known by their storage, so that a view of a tensor depends on whatever was written to it.
        bits, known = 0, []
        for t in inputs:
            if (name := names.get(id(t))) is not None:
                bits |= self._bits.setdefault(name, 1 << len(self._bits))
                known.append(name)
            else:
                bits |= self._sources.get(_storage(t), 0)
        for name in known:
            if name.endswith("running_mean"):
                path = name.rpartition(".")[0]
                self.normalised[path] = self.normalised.get(path, 0) | bits
        shared = {_storage(t) for t in inputs}
        for t in outs:
            storage = _storage(t)
            self._sources[storage] = bits | (self._sources.get(storage, 0) if storage in shared else 0)

    def only_source(self, t: Tensor) -> str | None:
        """The one tensor of the model that `t` depends on, or is."""
        if (name := self.names.get(id(t))) is not None:
            return name
        bits = self._sources.get(_storage(t), 0)
        return self.tensors_of(bits)[0] if bits.bit_count() == 1 else None

    def tensors_of(self, bits: int) -> list[str]:
        """The tensors of the model that are in a set."""
        names, listed = list(self._bits), []
        while bits:
            lowest = bits & -bits
            listed.append(names[lowest.bit_length() - 1])
            bits ^= lowest
        return listed

    def set(self, t: Tensor, shadows: Sequence[Tensor]) -> None:
        kept = [s for s in shadows if any(n > 1 for n in s.shape) and self.ledger.alive(s)]
        for s in kept:
            assert s.ndim == t.ndim, f"{self.where}: shadow {tuple(s.shape)} for {tuple(t.shape)}"
        self._shadows[t] = kept

    def blank(self, t: Tensor) -> None:
        """Remember a tensor that the model filled with a constant: it may take the labels of what is written to it."""
        self._blank[t] = True

    def is_blank(self, t: Tensor) -> bool:
        return t in self._blank

    # --- who reads an axis, and who writes it ---------------------------------------------------------------------

    def is_weight(self, t: Tensor) -> bool:
        """Whether a tensor is one of the model's own, or computed from these alone: `w.T`, `g * v / |v|`, `b @ a`."""
        return t in self._weights

    def computed(self, inputs: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        """Note what is computed from the model's tensors alone."""
        if inputs and all(t in self._weights for t in inputs):
            for t in outs:
                self._weights[t] = True

    def is_embedded(self, t: Tensor) -> bool:
        """Whether a tensor is what an embedding gave."""
        return t in self.embedded

    def contracted(self, a: Tensor, b: Tensor, a_dim: int, b_dim: int) -> None:
        """Products of two tensors were summed along these dimensions: there a weight reads channels, elsewhere it writes them.

        y = x @ w: the rows of w read the channels of x, whatever the number of their axis; its columns write those of y. Of
        two weights, `b @ a` of a low-rank update, the one that comes last in the code is the reader.
        """
        weight, dim = (b, b_dim) if self.is_weight(b) else (a, a_dim)
        if not self.is_weight(weight):
            for t, along in ((a, a_dim), (b, b_dim)):
                self.summed_by_activations += [
                    s.numpy().ravel() for s in self.shadows(t) if s.shape[along] > 1
                ]
            return
        for s in self.shadows(weight):
            (self.read if s.shape[dim] > 1 else self.written).append(s.numpy().ravel())

    def positions(
        self,
        out: Tensor,
        shadows: Sequence[Tensor],
        dims: Iterable[int],
        reason: str = "positions along it leave as numbers",
    ) -> None:
        """The numbers in `out` are positions along `dims` of a tensor with these shadows, or depend on positions there.

        The entry 7 of an argmax over 12 channels means the channel 7 of 12 and nothing else, so once somebody looks at it, these
        channels keep their number and order. Until then nothing is frozen: `x.max(1)` is often called for its values alone.
        """
        dims = list(dims)
        along = [(s, d, reason) for s in shadows for d in dims if s.shape[d] > 1]
        if along:
            self._positions[out] = [*(self._positions.get(out) or []), *along]

    def use(self, tensors: Iterable[Tensor]) -> None:
        """Somebody looks at these tensors: where they hold positions of channels, the channels stay."""
        if not self._positions:
            return
        for t in tensors:
            for shadow, dim, reason in self._positions.get(t) or ():
                self.ledger.rigid(shadow, dim, reason, self.where)

    def freeze(self, shadows: Sequence[Tensor], reason: str) -> None:
        for s in shadows:
            self.ledger.freeze(s, reason, self.where)

    def table(self, shadow: Tensor, prefer: int | None = None) -> None:
        dims = varying(shadow)
        if len(dims) > 1:
            flat = shadow[tuple(slice(None) if d in dims else 0 for d in range(shadow.ndim))]
            self.ledger.tables.append(Table(table=flat, prefer=prefer))

    # --- two operands on one grid ---------------------------------------------------------------------------------

    def elementwise(self, tensors: Sequence[Tensor], shape: Sequence[int]) -> list[Tensor]:
        """Shadows of an elementwise result; operands broadcast as torch does, or were expanded before (stride 0)."""
        # x (2, 8, 4, 4) + b (8, 1, 1), result (2, 8, 4, 4): the shadow (8, 1, 1) of b is reshaped to (1, 8, 1, 1) and meets that
        # of x. A dimension of stride 0 was expanded from size 1: the operand says nothing about it.
        merged: list[Tensor] = []
        so_far: list[int] = [1] * len(shape)
        for t in tensors:
            lead = [1] * (len(shape) - t.ndim)
            operand_shadows = [s.reshape(lead + list(s.shape)) for s in self.shadows(t)]
            full = lead + [1 if step == 0 else n for n, step in zip(t.shape, t.stride(), strict=True)]
            merged = self.together(merged, so_far, operand_shadows, full)
            so_far = [max(a, b) if 0 not in (a, b) else 0 for a, b in zip(so_far, full, strict=True)]
        return merged

    def together(
        self, a: Sequence[Tensor], a_shape: Sequence[int], b: Sequence[Tensor], b_shape: Sequence[int]
    ) -> list[Tensor]:
        """Merge the shadows of two operands of broadcastable shapes: at equal positions the same channel."""
        # q (N, heads, 1, dim) x k (N, 1, tokens, dim): both vary along dim, so they meet there. `real` leaves out dimensions
        # where the other operand has size 1, as broadcasting makes no two channels meet there.
        merged: list[Tensor] = []
        remaining = list(b)
        for s in a:
            real = {d for d in varying(s) if b_shape[d] != 1}
            partners = [t for t in remaining if real & set(varying(t))]
            self._unpartnered(s, real, partners)
            for t in partners:
                s = self._meet(s, t)
            merged.append(s)
        met = {d for s in a for d in varying(s)}
        for t in remaining:
            real = {d for d in varying(t) if a_shape[d] != 1}
            if not real & met:
                self._unpartnered(t, real, [])
                merged.append(t)
            elif not any(r is t or set(varying(t)) <= set(varying(r)) for r in merged):
                merged.append(t)
            else:
                self._unpartnered(t, real - met, [t])
        return merged

    def _unpartnered(self, s: Tensor, real: set[int], partners: Sequence[Tensor]) -> None:
        """Dimensions in which the other operand has values that are not channels: they keep their size."""
        covered = {d for t in partners for d in varying(t)}
        reason = "meets values that are not channels: an input or a constant"
        if self.opaque.operand is not None:
            reason = f"meets what an unknown operation gives, {self.opaque.operand}"
        for d in sorted(real - covered):
            self.ledger.rigid(s, d, reason, self.where)

    def _meet(self, s: Tensor, t: Tensor) -> Tensor:
        # Same dimensions: equal labels. (heads, dim) with (heads, 1): the second is the first seen along heads. (heads, dim) with
        # (1, dim, tokens): both are seen along dim, under one label per dim.
        s_dims, t_dims = set(varying(s)), set(varying(t))
        if s_dims == t_dims:
            self.ledger.equate(s, t)
            return s
        if t_dims < s_dims:
            self.ledger.project(s, tuple(t_dims), t, self.where, contraction=False)
            return s
        if s_dims < t_dims:
            self.ledger.project(t, tuple(s_dims), s, self.where, contraction=False)
            return t
        common = tuple(s_dims & t_dims)
        common_labels = self.ledger.project(s, common, None, self.where, contraction=False)
        self.ledger.project(t, common, common_labels, self.where, contraction=False)
        return s

    def without_nested(self, shadows: Sequence[Tensor]) -> list[Tensor]:
        """Drop shadows along a subset of another one's dimensions, such as (heads,) next to (heads, dim)."""
        kept: list[Tensor] = []
        for s in sorted(shadows, key=lambda s: -len(varying(s))):
            wider = next((t for t in kept if set(varying(s)) <= set(varying(t))), None)
            if wider is None:
                kept.append(s)
            else:
                self._meet(wider, s)
        return kept

    # --- sizes and cost ---------------------------------------------------------------------------------------------

    def size(self, t: Tensor, dim: int) -> int | DimSize:
        along = tuple(s for s in self.shadows(t) if s.shape[dim] > 1)
        return DimSize(along, dim, t.shape[dim]) if along else t.shape[dim]

    def record(self, out: Tensor, sizes: Sequence[int | DimSize]) -> None:
        written = tuple(self.size(out, d) for d in range(out.ndim))
        self.contractions.append(Contraction(module=self.module, sizes=tuple(sizes), written=written))

    def record_pool(self, source: Tensor) -> None:
        """An average pool, counted by its input elements in `convention="slimmable"` only."""
        sizes = tuple(self.size(source, d) for d in range(source.ndim))
        self.contractions.append(Contraction(module=self.module, sizes=sizes, written=(0,), pool=True))

    def parameter(self, t: Tensor, name: str, axes: int) -> None:
        """Give the first `axes` axes of a parameter or buffer fresh labels."""
        self._weights[t] = True
        shadows = []
        for axis, size in enumerate(t.shape[:axes]):
            if size > 1:
                shape = [size if d == axis else 1 for d in range(t.ndim)]
                shadows.append(self.ledger.fresh(size, tensor=name, axis=axis).reshape(shape))
        self.set(t, shadows)


def _storage(t: Tensor) -> int:
    return storage_address(t) if t.layout is torch.strided else id(t)


def outputs(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [t for t in out if isinstance(t, Tensor)] if isinstance(out, tuple | list) else []
