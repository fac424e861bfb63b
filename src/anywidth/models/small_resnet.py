"""A small residual network for images of a few pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut, ReLU after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network; every stage but the first halves the resolution.

    Args:
        in_channels: channels of the image.
        num_classes: number of logits.
        channels: channels of each stage, one entry per stage; the stem has those of the first.
        blocks: residual blocks in each stage.

    Source: He et al., arXiv 1512.03385, section 4.2 (the CIFAR variant), with 1x1 shortcuts and any channels.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        channels: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels[0])
        stages = []
        previous = channels[0]
        for index, width in enumerate(channels):
            # channels (32, 64), blocks 2: strides (1, 1) with inputs (32, 32), then (2, 1) with inputs (32, 64).
            strides = [1 if index == 0 else 2] + [1] * (blocks - 1)
            inputs = [previous] + [width] * (blocks - 1)
            stages.append(
                nn.Sequential(*(BasicBlock(c, width, s) for c, s in zip(inputs, strides, strict=True)))
            )
            previous = width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(previous, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in_channels, H, W) -> logits (N, num_classes)."""
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(self.stages(x).mean((2, 3)))
