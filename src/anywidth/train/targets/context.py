"""What a target may look at besides the logits and the labels."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(kw_only=True)
class Context:
    """The state of one step over several widths.

    Attributes:
        seen: detached logits (N, classes) of the widths that ran before, the widest first.
        narrowest: whether the logits are of the narrowest width of the step, for targets with `redraws`.
        teacher: gives the logits (N, classes) of the moving average, of its widest network or at a width that is named,
            each computed once.
        redrawn: inner widths of a second draw, for targets with `redraws`.
    """

    seen: list[Tensor] = field(default_factory=list)
    narrowest: bool = False
    teacher: Callable[..., Tensor] | None = None
    redrawn: Sequence[Hashable] = ()


class Target(Protocol):
    """What one width learns from: logits (N, classes), labels, context -> scalar loss, mean over the batch.

    A target with `descending = True` wants the widths of a step from the widest to the narrowest, one with
    `teacher = True` wants a moving average of the network, and one with `redraws = True` widths for it.
    """

    def __call__(self, logits: Tensor, labels: Tensor, context: Context) -> Tensor: ...
