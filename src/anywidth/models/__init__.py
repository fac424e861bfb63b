"""Plain networks that torchvision and timm lack; nothing here knows about width."""

from anywidth.models.cifar_densenet import CifarDenseNet
from anywidth.models.ds_mbnet import DSMBNet
from anywidth.models.ds_resnet import DSResNet
from anywidth.models.inverted import MNASNet, MobileNetV2
from anywidth.models.joslim_mobilenet import JoslimMobileNetV2, JoslimMobileNetV3
from anywidth.models.joslim_resnet import JoslimCifarResNet, JoslimResNet
from anywidth.models.mobilenet_v1 import MobileNetV1
from anywidth.models.preact_resnet import PreActResNet
from anywidth.models.resnet import ResNet
from anywidth.models.shufflenet_v1 import ShuffleNetV1
from anywidth.models.small_resnet import SmallResNet
from anywidth.models.vgg import VGGA, CifarVGG

__all__ = [
    "VGGA",
    "CifarDenseNet",
    "CifarVGG",
    "DSMBNet",
    "DSResNet",
    "JoslimCifarResNet",
    "JoslimMobileNetV2",
    "JoslimMobileNetV3",
    "JoslimResNet",
    "MNASNet",
    "MobileNetV1",
    "MobileNetV2",
    "PreActResNet",
    "ResNet",
    "ShuffleNetV1",
    "SmallResNet",
]
