"""Losses between logits and what they should be: labels, soft labels, or a teacher's logits."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Smoothing = Literal["all", "others"]


def soft_targets(logits: Tensor) -> Tensor:
    """Class probabilities of a teacher, cut off from its gradient.

    Args:
        logits: (N, classes).

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
    # Its gradient is that of the KL divergence, as the entropy of the teacher is a constant.
    return F.cross_entropy(logits, targets)


def label_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, over: Smoothing = "all") -> Tensor:
    """Cross-entropy to the labels, mean over the batch.

    Args:
        logits: (N, classes).
        labels: (N,) class numbers, or (N, classes) probabilities (mixup, cutmix).
        smoothing: probability that is taken from the label and spread evenly.
        over: "all": over all classes, the label's own included, eps / K each (Szegedy et al., arXiv
            1512.00567, section 7); "others": over the other classes only, eps / (K - 1) each (the AutoSlim
            recipes, arXiv 1903.11728).
    """
    if smoothing == 0 or over == "all":
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    # Three classes, smoothing 0.1, label 0: (0.9, 0.05, 0.05); over "all" it would be (0.933, 0.033, 0.033).
    classes = logits.shape[1]
    hard = F.one_hot(labels, classes).to(logits) if labels.ndim == 1 else labels
    return F.cross_entropy(logits, hard * (1 - smoothing) + (1 - hard) * (smoothing / (classes - 1)))
