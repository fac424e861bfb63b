"""What `module.to()`, `.cuda()`, `.half()` and their like end in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor

MOVE = "_apply"
"""The one method of a module through which its tensors are moved or cast, by all of `to`, `cuda`, `cpu`, `float`, `half`,
`type` and `share_memory`. It is called on children, so that a module that overrides only the public ones is passed over when
its parent moves."""


class FollowsMoves:
    """Mixed in before `nn.Module`: a module that has tensors beside its parameters and buffers, which must move with them.

    There is no public hook for moves; `to` and its like would each have to be overridden, in every parent.
    """

    __slots__ = ()

    def moved_(self, function: Callable[[Tensor], Tensor]) -> None:
        """Called after the parameters and buffers went through `function`; other tensors go through it here."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        parent: Any = super()
        parent._apply(fn, recurse)
        self.moved_(fn)
        return self
