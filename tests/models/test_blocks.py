import math

import pytest
import torch
from torch import nn

from anywidth import models
from anywidth.models.blocks import initialise_


@pytest.mark.parametrize(
    "build", [models.MobileNetV1, models.MobileNetV2, models.MNASNet, models.ResNet, models.ShuffleNetV1]
)
def test_initialisation(build):
    """Deviation sqrt(2 / (k k C_out)) also of depthwise convolutions; 0.01 of linear layers; fresh batch norms."""
    torch.manual_seed(0)
    scores = []
    for m in build().requires_grad_(False).modules():
        if isinstance(m, nn.Conv2d):
            std = math.sqrt(2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels))
            scores.append((m.weight.square().mean() / std**2 - 1) * math.sqrt(m.weight.numel() / 2))
            assert m.bias is None
        elif isinstance(m, nn.Linear):
            scores.append((m.weight.square().mean() / 0.01**2 - 1) * math.sqrt(m.weight.numel() / 2))
            assert not m.bias.any()
        elif isinstance(m, nn.BatchNorm2d):
            assert (m.weight == 1).all()
            assert not m.bias.any()
            assert (m.eps, m.momentum) == (1e-5, 0.1)
    assert max(abs(float(score)) for score in scores) < 5  # standard errors of the variance


def test_initialisation_of_biases():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3))
    initialise_(conv)
    assert not conv[0].bias.any()
