import timm
import torch

from anywidth.models import MobileNetV1
from models_twins import assert_twins

X = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_mobilenet_v1_is_that_of_timm():
    assert_twins(MobileNetV1(num_classes=7), timm.create_model("mobilenetv1_100", num_classes=7), X)
