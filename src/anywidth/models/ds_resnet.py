"""DS-ResNet: torchvision's ResNet with channel attention at the beginning of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from anywidth.models.attention import ChannelAttention
from anywidth.models.blocks import check_channels
from anywidth.models.resnet import BASES, BLOCKS


class AttentiveBottleneck(Bottleneck):
    """torchvision's bottleneck with `attention` after its first convolution, norm and ReLU."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.attention = ChannelAttention(self.conv1.out_channels, gate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        out = self.attention(self.relu(self.bn1(self.conv1(x))))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class DSResNet(nn.Module):
    """ResNet of bottlenecks whose first block in each stage has an attention that is the identity at first.

    Its keys are torchvision's and `layer{s}.0.attention` (`squeeze.reduce`, `expand`). Weights of torchvision therefore load
    with `strict=False`, where only attentions are missing, and the network computes what theirs does.

    The channel groups of stage s are, in torchvision's counting from 1: `layer{s}.*.conv1` and `layer{s}.*.conv2`, of the
    same size, the hidden channels `layer{s}.0.attention.squeeze.reduce`, and `layer{s}.0.conv3`, the residual stream that all
    its blocks write. The group `conv1` is the stem.

    Args:
        depth: 50, 101 or 152: how many blocks the stages have.
        num_classes: number of logits.
        channels: of the stem, and of each stage before the last convolutions of its blocks, which make four times as many.
        blocks: in each stage; by default those of `depth`.
        small: for images of 32 pixels: the stem is a 3x3 convolution without stride and there is no pooling after it.

    Raises:
        ValueError: another depth, lists of other lengths, or numbers that are not positive.

    Source: He et al., arXiv 1512.03385; Li et al., arXiv 2103.13258, who put a gate into the first block of each stage but
    published neither its place within the block nor the weights. Here it reads the output of the first convolution: the
    earliest feature of a stage, so that all that follows may have the width that is decided there.
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: int = 1000,
        *,
        channels: Sequence[int] = (64, *BASES),
        blocks: Sequence[int] | None = None,
        small: bool = False,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"DSResNet: depth {depth} is not one of {', '.join(map(str, BLOCKS))}")
        stage_blocks = BLOCKS[depth] if blocks is None else blocks
        counts = check_channels("DSResNet, blocks", stage_blocks, len(stage_blocks) or 1)
        stem, *bases = check_channels("DSResNet", channels, 1 + len(counts))
        self.conv1 = nn.Conv2d(3, stem, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        self.stages = tuple(f"layer{s}" for s in range(1, 1 + len(counts)))
        before = stem
        for name, base, count in zip(self.stages, bases, counts, strict=True):
            self.add_module(name, _stage(before, base, count, 1 if name == "layer1" else 2))
            before = base * Bottleneck.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        _initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _stage(before: int, base: int, blocks: int, stride: int) -> nn.Sequential:
    # base 64: 64 channels inside, 256 at the output. The attention of the first block is what a gate reads.
    out, shortcut = base * Bottleneck.expansion, None
    if stride != 1 or before != out:
        shortcut = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    gated_block = AttentiveBottleneck(before, base, stride, shortcut)
    return nn.Sequential(gated_block, *(Bottleneck(out, base) for _ in range(blocks - 1)))


def _initialise_(model: DSResNet) -> None:
    """Convolutions normal with variance 2 / (k k C_out), as in torchvision; attentions are the identity."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    # In a second loop: the first one has filled the convolutions of the attentions too.
    for m in model.modules():
        if isinstance(m, ChannelAttention):
            m.silence_()
