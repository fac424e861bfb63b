"""Pieces that the mobile networks share, and their initialisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anywidth.channel_select import select_


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    act: bool = True,
) -> list[nn.Module]:
    """A convolution without bias that keeps the size (up to its stride), its batch norm, and ReLU6 if `act`."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), *([nn.ReLU6(inplace=True)] if act else [])]


class SeparableConv(nn.Module):
    """A depthwise and a pointwise convolution, each with batch norm and ReLU6."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(in_channels, in_channels, 3, stride, groups=in_channels),
            *conv_norm(in_channels, out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        return self.body(x)


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter by a depthwise one, project by a 1x1 convolution without activation.

    Args:
        in_channels, hidden, out_channels: at its three places; without `expand` the first convolution is left out.
        kernel, stride: of the depthwise convolution. The input is added where it has the shape of the output.
    """

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, *, kernel: int, stride: int, expand: bool
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv_norm(in_channels, hidden) if expand else []),
            *conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            *conv_norm(hidden, out_channels, act=False),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        y = self.body(x)
        return x + y if self.residual else y


class Classifier(nn.Module):
    """`features`, the mean over space, and one linear layer (`classifier`): the frame of these networks."""

    features: nn.Module
    classifier: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> logits (N, num_classes)."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(torch.flatten(x, 1))


def initialise_(model: nn.Module, *, scale: float = 1.0, linear: float | None = 0.01) -> None:
    """Convolutions normal with variance 2 / (k k C_out), also depthwise ones, and biases zero.

    Args:
        model: changed in place.
        scale: of every batch norm.
        linear: deviation of the weights of linear layers, whose biases are zero; None leaves them as torch made them.

    Source: the recipes of arXiv 1812.08928, 1903.05134, 1903.11728; scale 0.5 in arXiv 1708.06519, section 4.2.
    """
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            # 3x3 with 64 outputs: fan 576, deviation sqrt(2 / 576) = 0.059; not divided by groups, as in the recipes.
            fan = m.kernel_size[0] * m.kernel_size[1] * m.out_channels
            nn.init.normal_(m.weight, 0.0, math.sqrt(2 / fan))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear) and linear is not None:
            nn.init.normal_(m.weight, 0.0, linear)
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.constant_(m.weight, scale)
            nn.init.zeros_(m.bias)


def check_channels(name: str, channels: object, count: int) -> list[int]:
    """A list of so many channels.

    Raises:
        ValueError: another number of them, or one that is not a positive whole number.
    """
    numbers = list(channels) if isinstance(channels, list | tuple) else []
    if len(numbers) != count or not all(isinstance(c, int) and c > 0 for c in numbers):
        raise ValueError(f"{name}: expected a list of {count} positive numbers of channels, got {channels!r}")
    return numbers


def check_places(name: str, channels: object, places: Sequence[str]) -> list[int]:
    """One number of channels for each place, as `check_channels`; one that is not positive is named by its place.

    Raises:
        ValueError: another number of them, or one that is not a positive whole number.
    """
    numbers = list(channels) if isinstance(channels, list | tuple) else []
    if len(numbers) == len(places):
        for position, (path, width) in enumerate(zip(places, numbers, strict=True), start=1):
            if not isinstance(width, int) or width < 1:
                raise ValueError(
                    f"{name}: entry {position} of the channels ({path}) is {width!r}; expected at least 1, since a layer "
                    "without channels computes nothing"
                )
    return check_channels(name, channels, len(places))


def stream_norm(name: str, path: str, stream: int, kept: int) -> nn.BatchNorm2d:
    """The batch norm of a layer that reads `kept` of the `stream` channels: the first ones, until others are loaded.

    Raises:
        ValueError: more channels than there are; `name` and `path` say where.
    """
    if kept > stream:
        raise ValueError(f"{name}: {path} reads {kept} channels, but there are {stream}")
    norm = nn.BatchNorm2d(stream)
    if kept < stream:
        select_(norm, torch.arange(kept))
    return norm
