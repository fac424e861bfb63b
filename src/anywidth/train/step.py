"""One training step: which widths, and the gradients they leave in the wide network."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.train.distill import distillation_loss, label_loss, soft_targets

Widths = Sequence[Hashable]
"""Widths of one step, the widest first: ratios, labels or `Width`s, whatever `Elastic.at` takes."""

Draw = Callable[[torch.Generator], Widths]


def sandwich(*, low: float, high: float, random: int) -> Draw:
    """The sandwich rule: at each step the widest, the narrowest and some random uniform widths between them.

    Args:
        low: the narrowest ratio.
        high: the widest ratio.
        random: how many widths are drawn from [low, high) at each step.

    Returns:
        A function generator -> (high, low, random ratios ...).

    Raises:
        WidthError: unless 0 < low < high <= 1 and random >= 0.

    Source: Yu and Huang, arXiv 1903.05134, section 3.2.
    """
    if not 0 < low < high <= 1 or random < 0:
        raise WidthError(
            f"sandwich rule: expected 0 < low < high <= 1 and random >= 0, "
            f"got low={low}, high={high}, random={random}"
        )

    def draw(generator: torch.Generator) -> Widths:
        uniform = torch.rand(random, generator=generator, dtype=torch.float64)
        return (high, low, *(low + (high - low) * uniform).tolist())

    return draw


def fixed(widths: Widths) -> Draw:
    """The same widths at every step, widest first (slimmable networks, arXiv 1812.08928).

    Raises:
        WidthError: if there is none.
    """
    if not widths:
        raise WidthError("training widths: the list is empty; name at least one width")
    return lambda generator: tuple(widths)


def accumulate_(
    net: Elastic,
    images: Tensor,
    labels: Tensor,
    widths: Widths,
    *,
    distill: bool = True,
    smoothing: float = 0.0,
) -> Tensor:
    """Run every width forward and backward; the gradients add up in the parameters of `net`.

    The first width learns from the labels. With `distill` the others learn from its softmax in the same
    forward pass, else from the labels too. The losses are summed, not averaged, over widths.

    Args:
        net: in training mode.
        images: (N, ...).
        labels: (N,) class numbers.
        widths: widest first.
        distill: in-place distillation.
        smoothing: label smoothing of the losses that use labels.

    Returns:
        (len(widths),) losses, detached, on the device of the network.
    """
    losses = []
    targets: Tensor | None = None
    for width in widths:
        logits = net.at(width)(images)
        if targets is None:
            loss = label_loss(logits, labels, smoothing=smoothing)
            targets = soft_targets(logits) if distill else None
        else:
            loss = distillation_loss(logits, targets)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses)
