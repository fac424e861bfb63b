import pytest
import torch
import torchvision

from anywidth.models import MNASNet, MobileNetV2
from models_twins import assert_twins, capped

X = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_mobilenet_v2_is_that_of_torchvision():
    assert_twins(MobileNetV2(num_classes=7), torchvision.models.mobilenet_v2(num_classes=7), X)


def test_mnasnet_is_that_of_torchvision_with_relu6():
    assert_twins(MNASNet(num_classes=7), capped(torchvision.models.mnasnet1_0(num_classes=7)), X)


def test_the_comparison_sees_another_activation():
    with pytest.raises(AssertionError):
        assert_twins(MNASNet(num_classes=7), torchvision.models.mnasnet1_0(num_classes=7), 9 * X)
