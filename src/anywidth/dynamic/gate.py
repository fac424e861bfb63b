"""Gates: one linear layer each, from a feature of the network to a logit for every width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anywidth.dynamic.routes import pooled


class Gate(nn.Module):
    """Logits of the choices from a feature.

    A feature with fewer channels than `channels`, from a narrow route, meets the first columns of the weight.

    Args:
        channels: of the feature, at most.
        choices: how many widths there are.

    Source: Li et al., arXiv 2103.13258, section 3.3: a head without bias on the squeezed feature of the attention.
    """

    def __init__(self, channels: int, choices: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(choices, channels))
        self.register_buffer("bias", torch.zeros(choices))
        nn.init.normal_(self.weight, 0.0, channels**-0.5)

    bias: Tensor

    def forward(self, feature: Tensor) -> Tensor:
        """feature: (N, C, ...) -> (N, choices)."""
        values = pooled(feature)
        return F.linear(values, self.weight[:, : values.shape[1]]) + self.bias

    @property
    def macs(self) -> int:
        return self.weight.numel()


def new_gates(channels: Sequence[int], choices: int) -> nn.ModuleList:
    """One gate for each feature."""
    return nn.ModuleList(Gate(count, choices) for count in channels)
