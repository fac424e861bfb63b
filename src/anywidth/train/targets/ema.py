"""Distillation from a moving average of the widest network (in-place bootstrapping, arXiv 2103.13258)."""

from torch import Tensor

from anywidth.train.targets.context import Context, Target
from anywidth.train.targets.losses import Smoothing, distillation_loss, label_loss, soft_targets


def ema(*, smoothing: float = 0.0, over: Smoothing = "all") -> Target:
    """The widest learns from the labels, every other width from the moving average of the widest.

    Source: Li et al., Dynamic Slimmable Network, arXiv 2103.13258, section 3.2.
    """

    def loss(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        if not context.seen:
            return label_loss(logits, labels, smoothing=smoothing, over=over)
        assert context.teacher is not None, "a target with `needs_teacher` is given one"
        return distillation_loss(logits, soft_targets(context.teacher()))

    return Target(loss=loss, needs_teacher=True)
