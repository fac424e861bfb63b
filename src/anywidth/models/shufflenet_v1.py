"""ShuffleNet v1 with three groups, its group convolutions written as one convolution for each group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anywidth.models.blocks import Classifier, check_channels, initialise_

BLOCKS = (4, 8, 4)
CHANNELS = (48, 480, 960, 1920)


def _norm_conv(a: int, b: int, kernel: int = 1, stride: int = 1, *, relu: bool) -> nn.Sequential:
    conv = nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(b), *([nn.ReLU(inplace=True)] if relu else []))


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Channel i of group j goes to place i x groups + j; x: (N, C, H, W)."""
    # Six channels in two groups: 0 1 2 | 3 4 5 -> 0 3 1 4 2 5.
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, shuffle, depthwise 3x3, grouped 1x1; added to the input, or put before its pooled form.

    Args:
        in_channels, out_channels: of the whole unit.
        stride: 2 concatenates, 1 adds.
        split: whether the first convolutions read a group each; those of the first unit read all channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, groups: int, split: bool) -> None:
        super().__init__()
        # 480 channels, three groups: 40 in each group of the bottleneck. With stride 2 the pooled input is concatenated, so the
        # convolutions make the other channels.
        middle = out_channels // 4 // groups
        residual_channels = out_channels if stride == 1 else out_channels - in_channels
        group_inputs = in_channels // groups if split else in_channels
        self.groups, self.stride, self.split = groups, stride, split
        conv = nn.Conv2d(middle * groups, middle * groups, 3, stride, 1, groups=middle * groups, bias=False)
        self.add_module("b", nn.Sequential(nn.Identity(), conv, nn.BatchNorm2d(middle * groups)))
        for g in range(groups):
            self.add_module(f"a_{g}", _norm_conv(group_inputs, middle, relu=True))
        for g in range(groups):
            self.add_module(f"c_{g}", _norm_conv(middle, residual_channels // groups, relu=False))

    def _grouped(self, name: str, group_inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [self.get_submodule(f"{name}_{g}")(group_input) for g, group_input in enumerate(group_inputs)], 1
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        # x (N, C_in, H, W) -> a: three of (N, m, H, W), joined -> shuffle -> b: (N, 3 m, H/s, W/s) -> c: (N, C_r, H/s, W/s),
        # where C_r is C_out with stride 1, else C_out - C_in.
        y = self._grouped("a", x.chunk(self.groups, 1) if self.split else [x] * self.groups)
        y = self.get_submodule("b")(shuffle_channels(y, self.groups))
        y = self._grouped("c", y.chunk(self.groups, 1))
        if self.stride == 1:
            return nn.functional.relu(x + y)
        return torch.cat([nn.functional.relu(y), nn.functional.avg_pool2d(x, 3, 2, 1)], 1)


class ShuffleNetV1(Classifier):
    """ShuffleNet v1 with separate convolutions for its groups, so that each group can be narrowed.

    Args:
        channels: of the stem and of the three stages; by default twice those of the paper, the widest slimmable net.
        num_classes: number of logits.
        groups: of the 1x1 convolutions; it divides the channels.

    Source: Zhang et al., arXiv 1707.01083, table 1 (g = 3), as laid out in arXiv 1812.08928: the stem has a convolution
    for each group, and the pooled branch comes last.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, num_classes: int = 1000, groups: int = 3) -> None:
        super().__init__()
        c = check_channels("ShuffleNetV1", channels, 1 + len(BLOCKS))
        self.groups = groups
        for g in range(groups):
            self.add_module(f"head_{g}", _norm_conv(3, c[0] // groups, 3, 2, relu=True))
        units: list[nn.Module] = []
        for previous, width, blocks in zip(c[:-1], c[1:], BLOCKS, strict=True):
            for i in range(blocks):
                units.append(
                    ShuffleUnit(
                        width if i else previous, width, 1 if i else 2, groups=groups, split=bool(units)
                    )
                )
        self.features = nn.Sequential(*units)
        self.classifier = nn.Sequential(nn.Linear(c[-1], num_classes))
        initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> logits (N, num_classes)."""
        heads = [self.get_submodule(f"head_{g}")(x) for g in range(self.groups)]
        x = torch.cat([nn.functional.max_pool2d(head, 3, 2) for head in heads], 1)
        return super().forward(x)
