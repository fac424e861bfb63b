"""Gates: one linear layer each, from a feature of the network to a logit for every width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anywidth.gating.routes import pooled


class Gate(nn.Module):
    """Logits of the choices from a feature.

    `offset` is trained, `bias` is set afterwards, to meet a mean cost. A feature with fewer channels than `channels`, from a narrow route, meets the first columns of the weight.

    Args:
        channels: of the feature, at most.
        choices: how many widths there are.

    Source: Li et al., arXiv 2103.13258, section 3.3: a head on the squeezed feature of the attention, there without offset.
    """

    def __init__(self, channels: int, choices: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(choices, channels))
        self.offset = nn.Parameter(torch.zeros(choices))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(choices))
        nn.init.normal_(self.weight, 0.0, channels**-0.5)

    mean: Tensor
    scale: Tensor
    bias: Tensor

    @torch.no_grad()
    def standardise_(self, feature: Tensor) -> None:
        """See features with mean 0 and variance 1 over these (N, C, ...); channels that are constant there are left out."""
        values = pooled(feature)
        # (N, C, H, W) -> (N, C). A constant channel gets scale 0 and not 1 / 0: it tells the gate nothing.
        deviation, count = values.std(0), values.shape[1]
        self.mean[:count] = values.mean(0)
        self.scale[:count] = torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), 0)

    def forward(self, feature: Tensor) -> Tensor:
        """feature: (N, C, ...) -> (N, choices)."""
        values = pooled(feature)
        count = values.shape[1]
        values = (values - self.mean[:count]) * self.scale[:count]
        return F.linear(values, self.weight[:, :count]) + self.offset + self.bias

    @property
    def macs(self) -> int:
        return self.weight.numel()


def gate_of(head: Tensor) -> Gate:
    """A gate with the weights of a published head (choices, channels) or (choices, channels, 1, 1), which has no offset.

    Raises:
        ValueError: another shape.
    """
    if head.ndim not in (2, 4) or head.shape[2:] not in ((), (1, 1)):
        raise ValueError(
            f"gate: a head of {list(head.shape)}; expected [choices, channels] or [choices, channels, 1, 1]"
        )
    weight = head.detach().flatten(1)
    with torch.random.fork_rng(devices=[]):
        gate = Gate(weight.shape[1], weight.shape[0])
    gate.weight = nn.Parameter(weight.clone())
    return gate.to(weight.device, weight.dtype)


def new_gates(channels: Sequence[int], choices: int) -> nn.ModuleList:
    """One gate for each feature."""
    return nn.ModuleList(Gate(count, choices) for count in channels)
