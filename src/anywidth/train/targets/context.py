"""What a target may look at besides the logits and the labels."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, kw_only=True)
class Target:
    """What one width learns from, and what it needs of a step.

    Attributes:
        loss: logits (N, classes), labels, context -> scalar loss, the mean over the batch.
        descending: whether the widths of a step run from the widest to the narrowest.
        needs_teacher: whether a moving average of the network is kept (`Context.teacher`).
        redraws: whether inner widths are drawn a second time, for the teacher (`Context.redrawn`).
    """

    loss: Callable[[Tensor, Tensor, Context], Tensor]
    descending: bool = False
    needs_teacher: bool = False
    redraws: bool = False

    def __call__(self, logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        return self.loss(logits, labels, context)


def as_target(target: Callable[[Tensor, Tensor, Context], Tensor]) -> Target:
    """A user's plain function as a target that needs nothing; a `Target` as it is.

    Raises:
        TypeError: the function carries properties as attributes, which nothing reads.
    """
    if isinstance(target, Target):
        return target
    for attribute, field_name in (
        ("descending", "descending"),
        ("teacher", "needs_teacher"),
        ("redraws", "redraws"),
    ):
        if hasattr(target, attribute):
            raise TypeError(
                f"the target {getattr(target, '__name__', target)!r} has an attribute {attribute!r}; declare it instead: "
                f"anywidth.train.targets.Target(loss=..., {field_name}=True)"
            )
    return Target(loss=target)
