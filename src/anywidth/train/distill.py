"""What a width learns from: the labels, or the widest network."""

import torch.nn.functional as F
from torch import Tensor


def soft_targets(logits: Tensor) -> Tensor:
    """Class probabilities of a teacher, cut off from its gradient.

    Args:
        logits: (N, classes) of the widest network, from its forward pass in training mode.

    Returns:
        (N, classes), each row sums to 1.
    """
    return logits.detach().softmax(dim=1)


def distillation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft cross-entropy, the mean over the batch of -sum_k targets_k log softmax(logits)_k.

    Args:
        logits: (N, classes) of the narrow network.
        targets: (N, classes) from `soft_targets`.

    Source: Yu and Huang, arXiv 1903.05134, section 3.3 (in-place distillation): temperature 1, no term for
    the labels, the entropy of the teacher is not subtracted.
    """
    return F.cross_entropy(logits, targets)


def label_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy to the labels, mean over the batch.

    Args:
        logits: (N, classes).
        labels: (N,) class numbers.
        smoothing: probability that is taken from the label and spread evenly over all classes, the label's
            own included (Szegedy et al., arXiv 1512.00567, section 7).
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)
