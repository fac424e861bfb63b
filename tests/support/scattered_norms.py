"""Networks whose batch norms differ from channel to channel, as trained ones do."""

import torch
from torch import nn

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scattered(model: nn.Module, low: float = 0.05, high: float = 1.5) -> nn.Module:
    """Scales, shifts and statistics that differ from channel to channel."""
    torch.manual_seed(0)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(m.weight, low, high)
            nn.init.uniform_(m.bias, -0.2, 0.2)
            m.running_mean.uniform_(-0.2, 0.2)
            m.running_var.uniform_(0.5, 1.5)
    return model
