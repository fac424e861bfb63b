import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic


@pytest.fixture(scope="module")
def net() -> Elastic:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    return Elastic(model, torch.randn(1, 4), widths={"small": 0.25, "big": 1.0, "middle": 0.5})
