"""Plain networks that torchvision and timm lack; nothing here knows about width."""

from anywidth.models.small_resnet import SmallResNet

__all__ = ["SmallResNet"]
