import socket

import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic


@pytest.fixture
def net() -> Elastic:
    """Three groups of eight channels that cost differently."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    return Elastic(model, torch.randn(1, 3, 16, 16), divisor=2, minimum=2)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
