"""What the solver knows so far: label sets, the attributes that follow them, and why labels were frozen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from anywidth.tracing.labels import Freeze, Partition
from anywidth.tracing.symbolic_sizes import (
    Attribute,
    DimSize,
    Form,
    beside,
)


@dataclass
class Solution:
    """Label sets, the attributes that follow them, and why labels were frozen.

    Attributes:
        partition: the label sets.
        equal: label -> its set by the equalities of the trace alone, before anything was fixed.
        attributes: attributes that follow sizes.
        sources: the sizes that they follow.
        freezes: what was fixed, in order.
    """

    partition: Partition
    attributes: dict[Attribute, Form] = field(default_factory=dict)
    sources: dict[Attribute, DimSize] = field(default_factory=dict)
    freezes: list[Freeze] = field(default_factory=list)
    equal: np.ndarray = field(default_factory=lambda: np.arange(0))

    def form(self, size: DimSize) -> Form | None:
        """The size in terms of label sets; None where two channel axes share the dimension and disagree."""
        forms = []
        for shadow, vector in zip(size.shadows, size.vectors(), strict=True):
            names = self.partition.name[vector]
            constant = beside(shadow, size.dim) and bool((names == names[0]).all())
            forms.append(Form(size.size) if constant else Form.of(names))
        return forms[0] if all(f == forms[0] for f in forms) else None

    def known(self, leaf: DimSize | Attribute) -> Form | None:
        return self.form(leaf) if isinstance(leaf, DimSize) else self.attributes.get(leaf)

    def merge(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Join label sets; forms found earlier follow."""
        return self._renamed(self.partition.merge(a, b))

    def _renamed(self, changed: bool) -> bool:
        if changed:
            self.attributes = {k: f.renamed(self.partition.name) for k, f in self.attributes.items()}
        return changed

    def freeze(self, labels: np.ndarray, reason: str, where: str) -> bool:
        changed = self._renamed(self.partition.fix(labels))
        if changed:
            self.freezes.append(Freeze(labels=labels, reason=reason, where=where))
        return changed
