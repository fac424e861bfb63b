import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.models import CifarVGG
from judged_net import Net
from judged_net import X as JUDGED
from scattered_norms import X, scattered


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    channels = [8, 16, 16, 16, 24, 24, 32, 32]
    return aw.Elastic(scattered(CifarVGG(11, channels=channels)).double(), X[:1]).eval()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return aw.Elastic(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 3))


@pytest.fixture
def net():
    return aw.Elastic(Net().eval(), JUDGED).eval()
