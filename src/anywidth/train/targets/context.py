"""What a target may look at besides the logits and the labels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass(kw_only=True)
class Context:
    """The state of one step over several widths.

    Attributes:
        seen: detached logits (N, classes) of the widths that ran before, the widest first.
        teacher: gives the logits (N, classes) of the moving average of the widest network, computed once.
    """

    seen: list[Tensor] = field(default_factory=list)
    teacher: Callable[[], Tensor] | None = None


class Target(Protocol):
    """What one width learns from: logits (N, classes), labels, context -> scalar loss, mean over the batch.

    A target with `descending = True` wants the widths of a step from the widest to the narrowest, and one
    with `teacher = True` wants a moving average of the network.
    """

    def __call__(self, logits: Tensor, labels: Tensor, context: Context) -> Tensor: ...
