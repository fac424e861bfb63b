"""Pieces that the networks of Joslim share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNorm(nn.Module):
    """A convolution without bias that keeps the size (up to its stride), batch norm, and the activation, if any."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = nn.Identity() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        return self.act(self.norm(self.conv(x)))


class Stage(nn.Module):
    """Residual blocks whose outputs have the same channels: `head`, the first, and `tail`, the others."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.head, self.tail = blocks[0], nn.Sequential(*blocks[1:])

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride) with the stride of the head."""
        return self.tail(self.head(x))
