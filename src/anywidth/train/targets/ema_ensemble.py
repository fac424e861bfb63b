"""In-place ensemble bootstrapping (arXiv 2103.13258)."""

import torch
from torch import Tensor

from anywidth.train.targets.context import Context, Target
from anywidth.train.targets.losses import Smoothing, distillation_loss, label_loss, soft_targets


def ema_ensemble(*, smoothing: float = 0.0, over: Smoothing = "all") -> Target:
    """As `ema`, but the narrowest width of a step learns from an ensemble of the moving average.

    Its target is the mean of the softmaxes of the moving average's widest network and of its networks at the inner widths
    that the width policy draws a second time: three networks where a step trains two widths between the ends.

    Source: Li et al., Dynamic Slimmable Network, arXiv 2103.13258, section 3.2.
    """

    def loss(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        if not context.seen:
            return label_loss(logits, labels, smoothing=smoothing, over=over)
        assert context.teacher is not None, "a target with `needs_teacher` is given one"
        # Step widths (1.0, a, b, 0.25), second draw (c, d): a and b learn from the average at 1.0, 0.25 from the mean at 1.0, c, d.
        teachers = [context.teacher()]
        if context.narrowest:
            teachers += [context.teacher(width) for width in context.redrawn]
        return distillation_loss(logits, torch.stack([soft_targets(t) for t in teachers]).mean(0))

    return Target(loss=loss, needs_teacher=True, redraws=True)
