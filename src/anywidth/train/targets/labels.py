"""Every width learns from the labels (slimmable networks, arXiv 1812.08928)."""

from torch import Tensor

from anywidth.train.targets.context import Context, Target
from anywidth.train.targets.losses import Smoothing, label_loss


def labels(*, smoothing: float = 0.0, over: Smoothing = "all") -> Target:
    """Cross-entropy to the labels, for every width; options as in `label_loss`."""

    def loss(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        return label_loss(logits, labels, smoothing=smoothing, over=over)

    return Target(loss=loss)
