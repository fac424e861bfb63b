"""Accuracy of many widths in one pass over the images."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.elastic import Elastic
from anywidth.errors import StatisticsError
from anywidth.norms.bank import batch_norms
from anywidth.train.distributed import total
from anywidth.views import instead


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a width does on a set of images.

    Attributes:
        accuracy: part of the images whose label has the largest logit, 0..1.
        top5: part of the images whose label is among the five largest logits (all, with fewer classes).
        loss: cross-entropy, mean over images, in nats.
        images: how many.
    """

    accuracy: float
    top5: float
    loss: float
    images: int


@torch.no_grad()
def evaluate(
    net: Elastic,
    batches: Iterable[Sequence[Tensor]],
    widths: Sequence[Any],
    *,
    norm: Literal["running", "batch"] = "running",
    shared: bool = True,
) -> list[Score]:
    """Run every width in evaluation mode on every batch, once; `net` keeps its mode.

    Args:
        net: must have statistics for the widths, unless `norm` is "batch".
        batches: yields (images, labels); with several processes each has a share, and the scores are of all.
        widths: ratios, labels or `Width`s.
        norm: "running": batch norms use the statistics of the width; "batch": those of each batch, and no
            statistics change (to compare widths that were never calibrated, as a search does).
        shared: several processes share the images; otherwise each has all of them, and its own widths.

    Returns:
        One score per width.

    Raises:
        StatisticsError: if a width was neither listed and trained nor calibrated.
        ValueError: if there are no images.
    """
    device = next(net.parameters()).device
    sums = torch.zeros(len(widths), 3, dtype=torch.float64, device=device)
    images = torch.zeros((), dtype=torch.float64, device=device)
    for w in widths:
        if norm == "running" and not net.has_statistics(w):
            raise StatisticsError(
                f"width {w} has no batch-norm statistics. Call net.calibrate(loader, widths=[{w}]) first, or train at this width."
            )
    training = net.training
    net.eval()
    try:
        for x, labels in batches:
            x, labels = x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            # Each batch is read once and runs at every width.
            images += len(labels)
            for row, width in enumerate(widths):
                sums[row] += _sums(_logits(net.at(width), x, norm), labels)
    finally:
        net.train(training)
    if shared:
        sums, images = total(sums), total(images)
    count = int(images)
    if not count:
        raise ValueError("evaluation: the loader yields no images")
    return [
        Score(accuracy=a / count, top5=b / count, loss=c / count, images=count) for a, b, c in sums.tolist()
    ]


@torch.no_grad()
def evaluate_module(module: nn.Module, batches: Iterable[Sequence[Tensor]]) -> Score:
    """The score of an ordinary network, over the images of this process; it keeps its mode.

    Raises:
        ValueError: if there are no images.
    """
    device = next(module.parameters()).device
    sums, count = torch.zeros(3, dtype=torch.float64, device=device), 0
    training = module.training
    module.eval()
    try:
        for x, labels in batches:
            sums += _sums(module(x.to(device)), labels.to(device))
            count += len(labels)
    finally:
        module.train(training)
    if not count:
        raise ValueError("evaluation: the loader yields no images")
    a, b, c = sums.tolist()
    return Score(accuracy=a / count, top5=b / count, loss=c / count, images=count)


def score(net: Elastic, batches: Iterable[Sequence[Tensor]], width: Hashable) -> Score:
    """`evaluate` of one width."""
    return evaluate(net, batches, [width])[0]


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Images right at the first guess, right within five guesses, and the summed loss."""
    # (N, 5) guesses == (N, 1) labels -> (N, 5) booleans, at most one of which is true per row.
    guesses = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([guesses[:, 0].sum().double(), guesses.any(1).sum().double(), loss.double()])


def _logits(view: nn.Module, x: Tensor, norm: str) -> Tensor:
    if norm == "running":
        return view(x)
    with _batch_statistics(view):
        return view(x)


@contextmanager
def _batch_statistics(view: nn.Module) -> Iterator[None]:
    """Batch norms normalise with the statistics of each batch, and remember nothing."""
    with ExitStack() as stack:
        for m in batch_norms(view).values():
            # In evaluation mode torch falls back on the statistics of the batch where a norm has none.
            stack.enter_context(instead(m, running_mean=None, running_var=None))
        yield
