"""Bottleneck ResNet whose every convolution may have its own number of channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from anywidth.models.blocks import Classifier, check_channels, initialise_

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASES = (64, 128, 256, 512)


def flat_channels(depth: int) -> list[int]:
    """Stem, then for each stage its output once, and for each of its blocks both middle widths and the output."""
    channels = [64]
    for base, blocks in zip(BASES, BLOCKS[depth], strict=True):
        channels += [4 * base, *(base, base, 4 * base) * blocks]
    return channels


def _conv(a: int, b: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions with batch norms, and the input added before the last ReLU."""

    def __init__(self, in_channels: int, middle: tuple[int, int], out_channels: int, stride: int) -> None:
        super().__init__()
        a, b = middle
        self.body = nn.Sequential(
            _conv(in_channels, a), nn.BatchNorm2d(a), nn.ReLU(inplace=True),
            _conv(a, b, 3, stride), nn.BatchNorm2d(b), nn.ReLU(inplace=True),
            _conv(b, out_channels), nn.BatchNorm2d(out_channels),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                _conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        return nn.functional.relu(self.body(x) + self.shortcut(x))


class ResNet(Classifier):
    """Residual network of bottlenecks, stride in the 3x3 convolution.

    Args:
        depth: 50, 101 or 152.
        channels: stem, then for each stage its output, and for each of its blocks two middle widths and the output
            (54 numbers without the classes for depth 50); by default those of the paper.
        num_classes: number of logits.

    Source: He et al., arXiv 1512.03385, table 1; key names and initialisation of arXiv 1812.08928.
    """

    def __init__(
        self, depth: int = 50, channels: Sequence[int] | None = None, num_classes: int = 1000
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"ResNet: depth {depth} is not one of {', '.join(map(str, BLOCKS))}")
        default = flat_channels(depth)
        c = default if channels is None else check_channels("ResNet", channels, len(default))
        stem = nn.Sequential(
            _conv_stem(c[0]), nn.BatchNorm2d(c[0]), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        layers: list[nn.Module] = [stem]
        # c = [64, 256, 64, 64, 256, 64, 64, 256, ...]: stem, output of stage 1, then (a, b, out) of each of its blocks.
        previous, offset = c[0], 1
        for stage, blocks in enumerate(BLOCKS[depth]):
            offset += 1  # the output of the stage, repeated in each block
            for block in range(blocks):
                a, b, out = c[offset : offset + 3]
                layers.append(Bottleneck(previous, (a, b), out, 2 if stage and not block else 1))
                previous, offset = out, offset + 3
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(previous, num_classes))
        initialise_(self)


def _conv_stem(channels: int) -> nn.Conv2d:
    return nn.Conv2d(3, channels, 7, 2, 3, bias=False)
