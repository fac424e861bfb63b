"""In-place distillation by an adaptive alpha-divergence (AlphaNet, arXiv 2102.07954)."""

import torch
from torch import Tensor

from anywidth.train.targets.context import Context, Target
from anywidth.train.targets.losses import Smoothing, label_loss


def alpha(
    *,
    smoothing: float = 0.0,
    over: Smoothing = "all",
    minimum: float = -1.0,
    maximum: float = 1.0,
    clip: float = 5.0,
) -> Target:
    """The widest learns from the labels, every other width from it by the larger of two alpha-divergences.

    Args:
        smoothing, over: of the widest network's loss, as in `label_loss`.
        minimum: the negative alpha, which punishes a student that is sure where the teacher is not.
        maximum: the positive alpha, which punishes the opposite.
        clip: largest weight of a class in the gradient.
    """

    def loss(logits: Tensor, labels: Tensor, context: Context) -> Tensor:
        if not context.seen:
            return label_loss(logits, labels, smoothing=smoothing, over=over)
        return adaptive_divergence(logits, context.seen[0], minimum=minimum, maximum=maximum, clip=clip)

    return Target(loss=loss)


def adaptive_divergence(
    logits: Tensor, teacher: Tensor, *, minimum: float, maximum: float, clip: float
) -> Tensor:
    """max(D_minimum, D_maximum)(teacher || student) per image, mean over the batch, with clipped gradients.

    The value is the divergence; the gradient is -E_q[rho grad log q] with rho = clipped (p / q)^alpha / alpha
    (p / q clipped, log(p / q) for alpha = 0), which is the divergence's own where nothing is clipped.

    Args:
        logits: (N, classes) of the student q.
        teacher: (N, classes) of the teacher p.

    Source: Wang et al., arXiv 2102.07954, equations 4-8: alpha = -1 and 1, clip 5.
    """
    # value + surrogate - its own value: the number of `value`, the gradient of `surrogate`.
    low, low_slope = _divergence(logits, teacher, minimum, clip)
    high, high_slope = _divergence(logits, teacher, maximum, clip)
    value, surrogate = torch.where(low > high, low, high), torch.where(low > high, low_slope, high_slope)
    return (value + surrogate - surrogate.detach()).mean()


def _divergence(logits: Tensor, teacher: Tensor, alpha: float, clip: float) -> tuple[Tensor, Tensor]:
    """(N,) the divergence, without gradient, and (N,) a number whose gradient is the divergence's, clipped."""
    # (N, classes) -> (N,). q and rho are constants in the surrogate: only log q is differentiated.
    log_q, log_p = logits.log_softmax(1), teacher.detach().log_softmax(1)
    q = log_q.detach().exp()
    log_ratio = log_p - log_q.detach()
    if abs(alpha) < 1e-6:  # the limit: KL(student || teacher)
        value, rho = -(q * log_ratio).sum(1), log_ratio.clamp(-clip, clip)
    elif abs(alpha - 1) < 1e-6:  # the limit: KL(teacher || student)
        value, rho = (log_p.exp() * log_ratio).sum(1), log_ratio.exp().clamp(max=clip)
    else:
        power = (
            (alpha * log_ratio).clamp(max=30.0).exp()
        )  # finite where the student is sure and the teacher is not
        value = ((q * power).sum(1) - 1) / (alpha * (alpha - 1))
        rho = power.clamp(max=clip) / alpha
    return value, -(q * rho * log_q).sum(1)
