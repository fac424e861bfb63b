"""Batch norm over a subset of the channels of its input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SelectNorm(nn.BatchNorm2d):
    """Batch norm of chosen channels; the others are dropped before it, so they cost nothing.

    Choosing before the norm equals choosing after it, since a batch norm treats every channel alone. `index` is a
    buffer of int64 in the state dict: which channels are read is loaded with the weights, and known without asking the
    device when an image passes.

    Args:
        num_channels: of the input.
        index: (K,) which of them are read, in this order.

    Raises:
        ValueError: no channel, one that does not exist, or one twice.

    Source: the channel selection layer of Liu et al., arXiv 1708.06519, section 3.4, "dealing with cross layer
    connections", placed before the norm.
    """

    index: Tensor

    def __init__(self, num_channels: int, index: Sequence[int]) -> None:
        kept = [int(i) for i in index]
        if not kept or len(set(kept)) < len(kept) or not all(0 <= i < num_channels for i in kept):
            raise ValueError(
                f"SelectNorm: index {kept}: expected at least one channel, none of them twice, each from 0 to {num_channels - 1}"
            )
        super().__init__(len(kept))
        self.num_channels = num_channels
        self.register_buffer("index", torch.tensor(kept, dtype=torch.int64))

    def forward(self, input: Tensor) -> Tensor:
        """input: (N, num_channels, H, W) -> (N, K, H, W)."""
        return super().forward(input.index_select(1, self.index))

    def extra_repr(self) -> str:
        return f"{self.num_channels} -> {super().extra_repr()}"


def stream_norm(name: str, place: str, stream: int, kept: int) -> nn.BatchNorm2d:
    """The batch norm of a layer that reads `kept` of the `stream` channels: the first ones, until others are loaded.

    Raises:
        ValueError: more channels than there are; `name` and `place` say where.
    """
    if kept > stream:
        raise ValueError(f"{name}: {place} reads {kept} channels, but there are {stream}")
    return nn.BatchNorm2d(stream) if kept == stream else SelectNorm(stream, range(kept))
