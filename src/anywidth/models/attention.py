"""Channel attention: channels scaled by what two 1x1 convolutions make of their means."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Gate = Literal["sigmoid", "tanh"]


def squeezed(channels: int, ratio: float = 0.25) -> int:
    """Hidden channels of an attention: the nearest whole number, halves up, at least 1 and 90 % of `ratio` x `channels`."""
    # 264 channels -> 66; 6 -> 2, as 1.5 rounds up.
    hidden = max(1, math.floor(ratio * channels + 0.5))
    return hidden + 1 if hidden < 0.9 * ratio * channels else hidden


class ChannelAttention(nn.Module):
    """`x * gate(expand(relu(reduce(mean of x over space))))`, both convolutions 1x1 with biases.

    The hidden channels are the output of `squeeze`, (N, hidden, 1, 1), which something else may read too.

    Args:
        channels: of the input.
        hidden: of the squeezed feature; by default a quarter, as `squeezed` rounds it.
        gate: "sigmoid", squeeze-and-excitation; or "tanh", 1 + tanh(...) with `expand` zero at first, so that a
            trained network computes what it did when the attention is put into it.

    Raises:
        ValueError: another gate.

    Source: Hu et al., arXiv 1709.01507, section 3; the second form as in arXiv 2103.13258.
    """

    def __init__(self, channels: int, hidden: int | None = None, gate: Gate = "sigmoid") -> None:
        super().__init__()
        if gate not in get_args(Gate):
            raise ValueError(
                f"ChannelAttention: gate {gate!r} is not one of {', '.join(map(repr, get_args(Gate)))}"
            )
        hidden = squeezed(channels) if hidden is None else hidden
        self.gate: Gate = gate
        self.squeeze = nn.Sequential(
            OrderedDict(pool=nn.AdaptiveAvgPool2d(1), reduce=nn.Conv2d(channels, hidden, 1), act=nn.ReLU())
        )
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.silence_()

    def silence_(self) -> None:
        """Make a "tanh" attention the identity; "sigmoid" has none."""
        if self.gate == "tanh":
            # 1 + tanh(0) = 1.
            nn.init.zeros_(self.expand.weight)
            assert self.expand.bias is not None
            nn.init.zeros_(self.expand.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        y = self.expand(self.squeeze(x))
        return x * (torch.sigmoid(y) if self.gate == "sigmoid" else 1 + torch.tanh(y))
