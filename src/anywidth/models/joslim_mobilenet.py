"""MobileNet v2 and v3 of Joslim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anywidth.models.blocks import initialise_
from anywidth.models.joslim_blocks import ConvNorm, Stage


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stage of inverted residuals.

    Attributes:
        channels: of its outputs.
        hidden: of the depthwise convolution of each block.
        stride: of the first block.
        se: squeeze-and-excitation in every block.
        hard: h-swish instead of ReLU6.
    """

    channels: int
    hidden: Sequence[int]
    stride: int
    se: bool = False
    hard: bool = False


_V2 = (
    Row(channels=24, hidden=(96, 144), stride=2),
    Row(channels=32, hidden=(144, 192, 192), stride=2),
    Row(channels=64, hidden=(192, 384, 384, 384), stride=2),
    Row(channels=96, hidden=(384, 576, 576), stride=1),
    Row(channels=160, hidden=(576, 960, 960), stride=2),
    Row(channels=320, hidden=(960,), stride=1),
)
_V3 = {
    "small": (
        Row(channels=24, hidden=(72, 88), stride=2),
        Row(channels=40, hidden=(96, 240, 240), stride=2, se=True, hard=True),
        Row(channels=48, hidden=(120, 144), stride=1, se=True, hard=True),
        Row(channels=96, hidden=(288, 576, 576), stride=2, se=True, hard=True),
    ),
    "large": (
        Row(channels=24, hidden=(64, 72), stride=2),
        Row(channels=40, hidden=(72, 120, 120), stride=2, se=True),
        Row(channels=80, hidden=(240, 200, 184, 184), stride=2, hard=True),
        Row(channels=112, hidden=(480, 672), stride=1, se=True, hard=True),
        Row(channels=160, hidden=(672, 960, 960), stride=2, se=True, hard=True),
    ),
    "super": (
        Row(channels=24, hidden=(144,) * 4, stride=2),
        Row(channels=40, hidden=(240,) * 4, stride=2, se=True),
        Row(channels=80, hidden=(480,) * 4, stride=2, hard=True),
        Row(channels=112, hidden=(672,) * 4, stride=1, se=True, hard=True),
        Row(channels=160, hidden=(960,) * 4, stride=2, se=True, hard=True),
    ),
}


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _pointwise(a: int, b: int) -> list[nn.Module]:
    return [nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b)]


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate that two 1x1 convolutions compute from their means; a quarter of them in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1, bias=False), nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, channels, 1, bias=False), nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.fc(nn.functional.adaptive_avg_pool2d(x, 1))


class SeparableBlock(nn.Module):
    """A depthwise 3x3 convolution with batch norm and ReLU6, and a 1x1 convolution with batch norm.

    The input is added where it has the shape of the output.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *_depthwise(in_channels, stride), nn.ReLU6(inplace=True), *_pointwise(in_channels, out_channels)
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


class InvertedBlock(nn.Module):
    """Expand by a 1x1 convolution, filter by a depthwise 3x3 one, project by a 1x1 convolution without activation.

    The squeeze-and-excitation stands before the second activation. The input is added where it has the output's shape.
    """

    def __init__(self, in_channels: int, hidden: int, row: Row, stride: int) -> None:
        super().__init__()
        # 24 -> 144 -> 32: (N, 24, H, W) -> (N, 144, H, W) -> depthwise (N, 144, H/s, W/s) -> (N, 32, H/s, W/s).
        act = nn.Hardswish if row.hard else nn.ReLU6
        self.conv = nn.Sequential(
            *_pointwise(in_channels, hidden), act(inplace=True),
            *_depthwise(hidden, stride), SqueezeExcite(hidden) if row.se else nn.Identity(), act(inplace=True),
            *_pointwise(hidden, row.channels),
        )  # fmt: skip
        self.residual = stride == 1 and in_channels == row.channels

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        return x + self.conv(x) if self.residual else self.conv(x)


def _stages(rows: Sequence[Row], previous: int) -> list[nn.Module]:
    stages: list[nn.Module] = []
    for row in rows:
        # Row(channels=32, hidden=(144, 192, 192), stride=2) after 24 channels: blocks 24 -> 144 -> 32, 32 -> 192 -> 32 twice;
        # only the first has the stride.
        inputs = [previous] + [row.channels] * (len(row.hidden) - 1)
        strides = [row.stride] + [1] * (len(row.hidden) - 1)
        blocks = zip(inputs, row.hidden, strides, strict=True)
        stages.append(Stage([InvertedBlock(a, hidden, row, stride) for a, hidden, stride in blocks]))
        previous = row.channels
    return stages


class JoslimMobileNetV2(nn.Module):
    """MobileNet v2 without activations after the first and the last convolution.

    Keys: `features.0` (`conv`, `norm`), `features.1.conv`, stages `features.2` to `features.7` with `head.conv`,
    `tail.0.conv`, ..., `features.8` (`conv`, `norm`), `classifier.1`.

    Args:
        num_classes: number of logits.
        dropout: share of the last features that training drops.

    Source: the networks published with Joslim, arXiv 2007.11752; Sandler et al., arXiv 1801.04381, table 2.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNorm(3, 32, 3, 2), SeparableBlock(32, 16, 1), *_stages(_V2, 16), ConvNorm(320, 1280, 1)
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> logits (N, num_classes)."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


class JoslimMobileNetV3(nn.Module):
    """MobileNet v3 whose depthwise convolutions are all 3x3, with ReLU6 for ReLU and a plain first block.

    Keys: `features.0` (`conv`, `norm`), `features.1.conv`, stages from `features.2` on with `head.conv`,
    `tail.0.conv`, ..., then `conv` and `norm`, the mean over space, and a convolution with bias; `classifier.1`.

    Args:
        size: "small", "large" or "super" (four blocks a stage, expansion 6).
        num_classes: number of logits.
        dropout: share of the last features that training drops.

    Raises:
        ValueError: another size.

    Source: the networks published with Joslim, arXiv 2007.11752; Howard et al., arXiv 1905.02244, tables 1 and 2.
    """

    def __init__(self, size: str = "large", num_classes: int = 1000, dropout: float = 0.0) -> None:
        super().__init__()
        if size not in _V3:
            raise ValueError(f"JoslimMobileNetV3: size {size!r} is not one of {', '.join(_V3)}")
        rows = _V3[size]
        last_hidden = rows[-1].hidden[-1]
        self.features = nn.Sequential(
            ConvNorm(3, 16, 3, 2, nn.Hardswish(inplace=True)),
            SeparableBlock(16, 16, 2 if size == "small" else 1),
            *_stages(rows, 16),
            ConvNorm(rows[-1].channels, last_hidden, 1, 1, nn.Hardswish(inplace=True)),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(last_hidden, 1280, 1),
            nn.Hardswish(inplace=True),
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> logits (N, num_classes)."""
        return self.classifier(torch.flatten(self.features(x), 1))
