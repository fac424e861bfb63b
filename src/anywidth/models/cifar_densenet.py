"""DenseNet without bottlenecks for images of 32 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anywidth.channel_select import handed_on
from anywidth.models.blocks import Classifier, check_places, initialise_, stream_norm

_BLOCKS = 3


def flat_channels(layers: int, growth: int, stem: int) -> list[int]:
    """What every norm reads: those of the layers of each block, with one for the transition (or the last norm) after them.

    Args:
        layers: of each of the three blocks.
    """
    # layers 12, growth 12, stem 24: block 0 reads 24, 36, ..., 168, block 1 168, ..., 312, block 2 312, ..., 456.
    counts = range(layers + 1)
    return [stem + growth * (layers * block + i) for block in range(_BLOCKS) for i in counts]


def places(layers: int) -> list[str]:
    """The norms, in the order of `flat_channels`."""
    paths = []
    for block in range(1, _BLOCKS + 1):
        paths += [f"features.block{block}.{i}.norm" for i in range(layers)]
        paths.append(f"features.transition{block}.norm" if block < _BLOCKS else "features.norm")
    return paths


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, whose maps are put behind the input.

    Args:
        norm: may read a part of the input.
        growth: maps that are added.
    """

    def __init__(self, norm: nn.BatchNorm2d, growth: int) -> None:
        super().__init__()
        self.norm = norm
        self.conv = nn.Conv2d(handed_on(norm), growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution and the mean of 2x2 pixels.

    Args:
        norm: may read a part of the input.
        out_channels: of the convolution.
    """

    def __init__(self, norm: nn.BatchNorm2d, out_channels: int) -> None:
        super().__init__()
        self.norm = norm
        self.conv = nn.Conv2d(handed_on(norm), out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C_out, H/2, W/2)."""
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2)


class CifarDenseNet(Classifier):
    """DenseNet of three blocks with 3x3 convolutions, without bottlenecks, compression or dropout.

    Keys: `features.stem`, `features.block1.0` (`norm`, `conv`) and so on, `features.transition1` (`norm`, `conv`),
    `features.norm`, `classifier`; norms that read a part of their input also have `index` (`anywidth.channel_select`).

    Args:
        depth: 3 n + 4 for n layers in each block.
        growth: maps that every layer adds.
        stem: maps of the first convolution: 16 in the papers, 24 (twice the growth) in the published code of slimming.
        num_classes: number of logits.
        channels: how many channels each norm reads, 3 n + 3 numbers: of the layers of a block, then of the transition
            after it, or the last norm. Fewer than there are select the first.

    Raises:
        ValueError: another depth, sizes that are not positive, or channels that do not fit.

    Source: Huang et al., arXiv 1608.06993, section 4.1 (DenseNet with k = 12, depth 40), as slimmed in arXiv
    1708.06519: scale of batch norms 0.5 at the start.
    """

    def __init__(
        self,
        depth: int = 40,
        growth: int = 12,
        stem: int = 24,
        num_classes: int = 10,
        channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        layers = (depth - 4) // 3
        if layers < 1 or depth != 3 * layers + 4:
            raise ValueError(
                f"CifarDenseNet: depth {depth} is not 3 n + 4 for n layers a block, like 22, 40, 100"
            )
        if growth < 1 or stem < 1:
            raise ValueError(f"CifarDenseNet: growth {growth} and stem {stem}: expected at least 1 of each")
        names = places(layers)
        streams = flat_channels(layers, growth, stem)
        flat = streams if channels is None else check_places("CifarDenseNet", channels, names)
        norms = [
            stream_norm("CifarDenseNet", name, stream, kept)
            for name, stream, kept in zip(names, streams, flat, strict=True)
        ]
        stages: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(3, stem, 3, padding=1, bias=False))
        # A slice of norms per block: one for each layer, then that of the transition (or the last norm).
        for block in range(_BLOCKS):
            *layer_norms, transition_norm = norms[block * (layers + 1) : (block + 1) * (layers + 1)]
            stages[f"block{block + 1}"] = nn.Sequential(*(DenseLayer(norm, growth) for norm in layer_norms))
            if block < _BLOCKS - 1:
                # A transition halves the resolution and keeps the channels.
                stream = streams[(block + 1) * (layers + 1) - 1]
                stages[f"transition{block + 1}"] = Transition(transition_norm, stream)
        stages["norm"] = norms[-1]
        stages["relu"] = nn.ReLU(inplace=True)
        self.features = nn.Sequential(stages)
        self.classifier = nn.Linear(flat[-1], num_classes)
        initialise_(self, scale=0.5, linear=None)
