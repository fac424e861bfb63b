"""In-place distillation from the widest network of the step (arXiv 1903.05134, section 3.3)."""

from torch import Tensor

from anywidth.train.targets.context import Context, Target
from anywidth.train.targets.losses import Smoothing, distillation_loss, label_loss, soft_targets


def widest(*, smoothing: float = 0.0, over: Smoothing = "all") -> Target:
    """The widest learns from the labels, every other width from its softmax in the same forward pass."""

    def loss(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        if not context.seen:
            return label_loss(logits, labels, smoothing=smoothing, over=over)
        return distillation_loss(logits, soft_targets(context.seen[0]))

    return Target(loss=loss)
