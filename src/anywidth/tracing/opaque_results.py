"""What operations without a rule give: nobody knows which channels are in there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


@dataclass
class OpaqueResults:
    """Tensors without labels that come from an operation without a rule, so that what meets them can say why it is frozen.

    y = mystery(x); z = 2 * y; head(z): y and z are opaque, and the columns of the head are frozen because of `mystery`.
    """

    operand: str | None = None
    """The origin of an opaque input of the present operation, if it has one."""
    _origins: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    def add(self, tensors: Iterable[Tensor], origin: str) -> None:
        for t in tensors:
            self._origins[t] = origin

    def enter(self, inputs: Iterable[Tensor]) -> None:
        """Before the rule of an operation."""
        self.operand = next((o for t in inputs if (o := self._origins.get(t)) is not None), None)

    def leave(self, unlabelled: Iterable[Tensor]) -> None:
        """After it: results without labels come from where the opaque input did."""
        if self.operand is not None:
            self.add(unlabelled, self.operand)
