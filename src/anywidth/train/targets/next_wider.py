"""In-place distillation down a chain of widths: each learns from the next wider one."""

from torch import Tensor

from anywidth.train.targets.context import Context, Target
from anywidth.train.targets.losses import Smoothing, distillation_loss, label_loss, soft_targets


def next_wider(*, smoothing: float = 0.0, over: Smoothing = "all") -> Target:
    """The widest learns from the labels, every other width from the one just above it in this step.

    The smaller step from teacher to student is that of teacher assistants (Mirzadeh et al., arXiv 1902.03393).
    """

    def loss(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        if not context.seen:
            return label_loss(logits, labels, smoothing=smoothing, over=over)
        # `descending`: widths run from the widest on, so the last logits seen are those of the next wider one.
        return distillation_loss(logits, soft_targets(context.seen[-1]))

    return Target(loss=loss, descending=True)
