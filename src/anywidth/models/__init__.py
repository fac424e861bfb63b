"""Plain networks that torchvision and timm lack; nothing here knows about width."""

from anywidth.models.inverted import MNASNet, MobileNetV2
from anywidth.models.mobilenet_v1 import MobileNetV1
from anywidth.models.resnet import ResNet
from anywidth.models.shufflenet_v1 import ShuffleNetV1
from anywidth.models.small_resnet import SmallResNet

__all__ = ["MNASNet", "MobileNetV1", "MobileNetV2", "ResNet", "ShuffleNetV1", "SmallResNet"]
