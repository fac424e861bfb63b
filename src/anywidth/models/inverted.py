"""MobileNet v2 and MNASNet: stacks of inverted residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from anywidth.models.blocks import Classifier, InvertedResidual, check_channels, conv_norm, initialise_

Row = tuple[int, int, int, int, int]
"""Expansion, channels, blocks, stride of the first block, kernel."""

MOBILENET_V2: tuple[Row, ...] = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
MNASNET: tuple[Row, ...] = (
    (1, 16, 1, 1, 3),
    (3, 24, 3, 2, 3),
    (3, 40, 3, 2, 5),
    (6, 80, 3, 2, 5),
    (6, 96, 2, 1, 3),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def flat_channels(table: Sequence[Row], stem: int = 32, tail: int = 1280) -> list[int]:
    """A table as a list of channels: stem, first block, then hidden and output of each block, tail."""
    # (1, 16, 1, ...), (6, 24, 2, ...): [32, 16, 96, 24, 144, 24, ...]; the first block has no expansion.
    channels, previous = [stem], stem
    for index, (expansion, width, blocks, _, _) in enumerate(table):
        for _ in range(blocks):
            channels += ([previous * expansion] if index else []) + [width]
            previous = width
    return [*channels, tail]


class _Inverted(Classifier):
    """The two networks differ in their table only."""

    def __init__(self, table: Sequence[Row], channels: Sequence[int] | None, num_classes: int) -> None:
        super().__init__()
        default = flat_channels(table)
        name = type(self).__name__
        c = default if channels is None else check_channels(name, channels, len(default))
        # (6, 24, 2, 2, 3) gives two blocks with (kernel, stride) (3, 2) and (3, 1).
        shapes = [(kernel, stride if i == 0 else 1) for _, _, n, stride, kernel in table for i in range(n)]
        # c = [32, 16, 96, 24, ..., 1280]: hidden 32, 96, ... and outputs 16, 24, ...
        hidden, outputs = [c[0], *c[2:-1:2]], [c[1], *c[3:-1:2]]
        layers: list[nn.Module] = [nn.Sequential(*conv_norm(3, c[0], 3, 2))]
        inputs = [c[0], *outputs[:-1]]
        for i, (a, h, b, (kernel, stride)) in enumerate(zip(inputs, hidden, outputs, shapes, strict=True)):
            layers.append(InvertedResidual(a, h, b, kernel=kernel, stride=stride, expand=i > 0))
        layers.append(nn.Sequential(*conv_norm(outputs[-1], c[-1])))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(c[-1], num_classes))
        initialise_(self)


class MobileNetV2(_Inverted):
    """MobileNet v2.

    Args:
        channels: 35 numbers: first convolution, first block, then hidden and output of the 16 others, last convolution.
        num_classes: number of logits.

    Source: Sandler et al., arXiv 1801.04381, table 2, without dropout; key names of arXiv 1812.08928.
    """

    def __init__(self, channels: Sequence[int] | None = None, num_classes: int = 1000) -> None:
        super().__init__(MOBILENET_V2, channels, num_classes)


class MNASNet(_Inverted):
    """MNASNet without squeeze-and-excitation; ReLU6 everywhere.

    Args:
        channels: as of `MobileNetV2`.
        num_classes: number of logits.

    Source: Tan et al., arXiv 1807.11626, as slimmed in arXiv 1903.11728.
    """

    def __init__(self, channels: Sequence[int] | None = None, num_classes: int = 1000) -> None:
        super().__init__(MNASNET, channels, num_classes)
