"""What the solver knows so far: label sets, the attributes that follow them, and why labels were frozen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from anywidth.tracing.labels import Freeze, Partition
from anywidth.tracing.symbolic_sizes import (
    Attribute,
    DimSize,
    Form,
)


@dataclass
class Solution:
    """Label sets, the attributes that follow them, and why labels were frozen."""

    partition: Partition
    attributes: dict[Attribute, Form] = field(default_factory=dict)
    sources: dict[Attribute, DimSize] = field(default_factory=dict)
    freezes: list[Freeze] = field(default_factory=list)

    def form(self, size: DimSize) -> Form | None:
        """The size in terms of label sets; None where two channel axes share the dimension and disagree."""
        forms = []
        for shadow, vector in zip(size.shadows, size.vectors(), strict=True):
            names = self.partition.name[vector]
            beside = any(n > 1 for d, n in enumerate(shadow.shape) if d != size.dim)
            forms.append(Form(size.size) if beside and bool((names == names[0]).all()) else Form.of(names))
        return forms[0] if all(f == forms[0] for f in forms) else None

    def known(self, leaf: DimSize | Attribute) -> Form | None:
        return self.form(leaf) if isinstance(leaf, DimSize) else self.attributes.get(leaf)

    def merge(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Join label sets; forms found earlier follow."""
        changed = self.partition.merge(a, b)
        if changed:
            self.attributes = {k: f.renamed(self.partition.name) for k, f in self.attributes.items()}
        return changed

    def freeze(self, labels: np.ndarray, reason: str, where: str) -> bool:
        changed = self.merge(labels, np.zeros_like(labels))
        if changed:
            self.freezes.append(Freeze(labels=labels, reason=reason, where=where))
        return changed
