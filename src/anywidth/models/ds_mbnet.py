"""DS-MBNet, the network of dynamic slimmable networks, and the channels it was trained with."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from anywidth.models.attention import ChannelAttention, Gate
from anywidth.models.blocks import check_channels

CANDIDATES: tuple[tuple[int, ...], ...] = (
    (16, 24),
    (32, 88),
    (48, 168),
    (96, 264),
    tuple(range(224, 641, 32)),
    tuple(range(736, 1153, 32)),
)
"""Channels that the stem and each stage may have, the fewest first."""

CHANNELS = tuple(table[-1] for table in CANDIDATES)
BLOCKS = (1, 2, 2, 6, 2)
STRIDES = (1, 2, 2, 2, 2)


def sub_networks(candidates: Sequence[Sequence[int]] = CANDIDATES) -> dict[Hashable, tuple[int, ...]]:
    """Label -> channels of the stem and of each stage.

    With K entries in the longest tables, label k of 0..K-1 has entry k of these and the first entry of all others;
    "smallest" is label 0, and "largest" has the last entry of every table.

    Args:
        candidates: increasing channels of the stem and of each stage.

    Raises:
        ValueError: no table, an empty one, one that does not increase, or one of more than two entries beside a longer one.

    Source: arXiv 2103.13258; the 14 networks are those whose multiply-adds and accuracies were published with the code.
    """
    if not candidates:
        raise ValueError("candidates: expected a table for the stem and one for each stage, got none")
    # The published tables have 2, 2, 2, 2, 14 and 14 entries: label 3 is (16, 32, 48, 96, 320, 832), and "largest"
    # (24, 88, 168, 264, 640, 1152).
    choices = max(map(len, candidates))
    for table_index, table in enumerate(candidates):
        if not table or min(table) < 1 or any(b <= a for a, b in itertools.pairwise(table)):
            raise ValueError(
                f"candidates {table_index}: expected increasing numbers of channels, got {table!r}"
            )
        if len(table) not in (1, 2, choices):
            raise ValueError(
                f"candidates {table_index}: has {len(table)} entries and the longest table {choices}; expected as many, "
                "or a narrow and a wide one"
            )
    channels_by_label: dict[Hashable, tuple[int, ...]] = {
        k: tuple(table[k] if len(table) == choices else table[0] for table in candidates)
        for k in range(choices)
    }
    return channels_by_label | {
        "smallest": channels_by_label[0],
        "largest": tuple(table[-1] for table in candidates),
    }


class SeparableAttention(nn.Module):
    """`depthwise`: a 3x3 convolution of each channel, batch norm, Swish, attention; `pointwise`: 1x1, batch norm, Swish."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, gate: Gate) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
                norm=nn.BatchNorm2d(in_channels),
                act=nn.SiLU(),
                attention=ChannelAttention(in_channels, gate=gate),
            )
        )
        self.pointwise = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
                norm=nn.BatchNorm2d(out_channels),
                act=nn.SiLU(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        return self.pointwise(self.depthwise(x))


class DSMBNet(nn.Module):
    """Five stages of depthwise separable convolutions with channel attention; no residual connections.

    Keys: `stem` (`conv`, `norm`), `stages.{s}.{j}.depthwise` (`conv`, `norm`, `attention.squeeze.reduce`,
    `attention.expand`), `stages.{s}.{j}.pointwise` (`conv`, `norm`), `classifier`.

    Args:
        num_classes: number of logits.
        channels: of the stem and of each stage.
        blocks: in each stage.
        strides: of the first block of each stage.
        stem_stride: of the first convolution; 1 with `strides` (1, 1, 2, 2, 2) suits images of 32 pixels.
        gate: as of `ChannelAttention`, whose hidden channels are a quarter of those that its block reads.
        dropout: share of the last features that training drops.

    Raises:
        ValueError: lists of other lengths, or numbers that are not positive.

    Source: Li et al., arXiv 2103.13258, the widest network of the published code.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        *,
        channels: Sequence[int] = CHANNELS,
        blocks: Sequence[int] = BLOCKS,
        strides: Sequence[int] = STRIDES,
        stem_stride: int = 2,
        gate: Gate = "sigmoid",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        counts = check_channels("DSMBNet, blocks", blocks, len(blocks) or 1)
        steps = check_channels("DSMBNet, strides", strides, len(counts))
        c = check_channels("DSMBNet", channels, 1 + len(counts))
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, c[0], 3, stem_stride, 1, bias=False),
                norm=nn.BatchNorm2d(c[0]),
                act=nn.SiLU(),
            )
        )
        # c = (24, 88, 168, ...): the stem makes 24, stage 0 goes from 24 to 88, stage 1 from 88 to 168.
        self.stages = nn.Sequential(
            *(_stage(a, b, n, step, gate) for a, b, n, step in zip(c[:-1], c[1:], counts, steps, strict=True))
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(c[-1], num_classes)
        _initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> logits (N, num_classes)."""
        x = nn.functional.adaptive_avg_pool2d(self.stages(self.stem(x)), 1)
        return self.classifier(self.dropout(torch.flatten(x, 1)))


def _stage(a: int, b: int, blocks: int, stride: int, gate: Gate) -> nn.Sequential:
    later_blocks = (SeparableAttention(b, b, 1, gate) for _ in range(blocks - 1))
    return nn.Sequential(SeparableAttention(a, b, stride, gate), *later_blocks)


def _initialise_(model: DSMBNet) -> None:
    """Convolutions normal with variance 2 groups / (k k C_out), linear weights uniform to 1 / sqrt(C_out)."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            fan = math.prod(m.kernel_size) * m.out_channels // m.groups
            nn.init.normal_(m.weight, 0.0, math.sqrt(2 / fan))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Linear):
            nn.init.uniform_(m.weight, -1 / math.sqrt(m.out_features), 1 / math.sqrt(m.out_features))
            nn.init.zeros_(m.bias)
    # In a second loop: the first one has filled the convolutions of the attentions too.
    for m in model.modules():
        if isinstance(m, ChannelAttention):
            m.silence_()
