"""Accuracy of one width."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anywidth.elastic import Elastic


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a width does on a set of images.

    Attributes:
        accuracy: part of the images whose label has the largest logit, 0..1.
        loss: cross-entropy, mean over images, in nats.
        images: how many.
    """

    accuracy: float
    loss: float
    images: int


@torch.no_grad()
def evaluate(net: Elastic, loader: Iterable[Sequence[Tensor]], width: Hashable) -> Score:
    """Run one width in evaluation mode once over `loader`; `net` keeps its mode.

    Args:
        net: must have statistics for `width`.
        loader: yields (images, labels).
        width: ratio, label or `Width`.

    Raises:
        StatisticsError: if the width was neither listed and trained nor calibrated.
        ValueError: if the loader is empty.
    """
    device = next(net.parameters()).device
    training = net.training
    net.eval()
    try:
        module = net.at(width)
        correct = loss = torch.zeros((), dtype=torch.float64, device=device)
        images = 0
        for x, labels in loader:
            logits, labels = module(x.to(device)), labels.to(device)
            correct = correct + (logits.argmax(1) == labels).sum()
            loss = loss + F.cross_entropy(logits, labels, reduction="sum")
            images += len(labels)
    finally:
        net.train(training)
    if not images:
        raise ValueError("evaluation: the loader yields no images")
    return Score(accuracy=correct.item() / images, loss=loss.item() / images, images=images)
