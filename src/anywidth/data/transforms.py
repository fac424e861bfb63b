"""From a decoded image to the tensor that the network sees: for training, and for testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from anywidth.data.config import Augment
from anywidth.errors import DataError
from anywidth.seeds import seeded

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SVHN = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PRESETS: dict[str, dict[str, Any]] = {
    "none": {"area": 0.0, "padding": 0, "flip": 0.0, "jitter": 0.0, "lighting": 0.0, "pixels": None},
    "cifar": {"area": 0.0, "padding": 4, "flip": 0.5, "jitter": 0.0, "lighting": 0.0, "pixels": CIFAR},
    "imagenet_basic": {"area": 0.08, "padding": 0, "flip": 0.5, "jitter": 0.4, "lighting": 0.1, "pixels": IMAGENET},
    "imagenet_mobile": {"area": 0.25, "padding": 0, "flip": 0.5, "jitter": 0.4, "lighting": 0.1, "pixels": IMAGENET},
    "imagenet_inception": {"area": 0.08, "padding": 0, "flip": 0.5, "jitter": 0.4, "lighting": 0.1, "pixels": HALF},
}  # fmt: skip

Transform = Callable[[Any], Tensor]


class Lighting(nn.Module):
    """Adds noise along the principal components of ImageNet's colours, to pixels in 0..1.

    Args:
        std: of the noise, in units of each component's standard deviation.

    Source: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", section 4.1. The
    slimmable recipes add it to whole grey levels, which removes it; here it acts.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std
        self.values = torch.tensor([0.2175, 0.0188, 0.0045])
        self.vectors = torch.tensor(
            [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
        )

    def forward(self, x: Tensor) -> Tensor:
        # (3, 3) @ (3) -> one number per colour, the same for all pixels.
        noise = self.vectors @ (self.values * self.std * torch.randn(3))
        return x + noise.view(3, 1, 1)


def _value(augment: Augment, name: str) -> Any:
    value = getattr(augment, name)
    return PRESETS[augment.preset][name] if value is None else value


def _pixels(augment: Augment, default: tuple[Any, Any]) -> tuple[Any, Any]:
    mean, std = PRESETS[augment.preset]["pixels"] or default
    return augment.mean or mean, augment.std or std


def _finish(augment: Augment, default: tuple[Any, Any]) -> list[nn.Module]:
    mean, std = _pixels(augment, default)
    return [v2.Normalize(list(mean), list(std))]


def _auto(name: str, size: int, augment: Augment, default: tuple[Any, Any]) -> Any:
    """A policy of timm on images of PIL."""
    from timm.data import auto_augment as timm_policies

    mean, _ = _pixels(augment, default)
    grey = tuple(min(255, round(255 * m)) for m in mean)
    settings = {"translate_const": int(size * 0.45), "img_mean": grey}
    # "rand-m9-mstd0.5-inc1" is RandAugment of magnitude 9; names without such a prefix ("v0", "original") are AutoAugment.
    family = name.split("-")[0]
    make: Any = timm_policies.auto_augment_transform
    if family == "rand":
        make = timm_policies.rand_augment_transform
    elif family == "augmix":
        make, settings = timm_policies.augment_and_mix_transform, {**settings, "translate_pct": 0.3}
    try:
        policy = make(name, settings)
        with seeded(0):
            for _ in range(20):  # some policies fail only when an operation of theirs is drawn
                policy(Image.new("RGB", (size, size)))
    except Exception as error:  # timm raises many types
        raise DataError(
            f"data.augment.auto = {name!r}: timm cannot make or apply this policy ({error})"
        ) from error
    return policy


def train_transform(augment: Augment, size: int, default: tuple[Any, Any] = IMAGENET) -> Transform:
    """Random crop, automatic policy, colour jitter, flip, then pixels in 0..1, lighting, normalised, erasing.

    Args:
        augment: what of it.
        size: pixels of the side of the result, (3, size, size).
        default: mean and standard deviation of the pixels, where the settings name none.
    """
    steps: list[Any] = []
    if area := _value(augment, "area"):
        steps.append(v2.RandomResizedCrop(size, scale=(area, 1.0), antialias=True))
    else:
        steps += [v2.Resize(size, antialias=True), v2.CenterCrop(size)]
    if padding := _value(augment, "padding"):
        steps.append(v2.RandomCrop(size, padding=padding))
    # timm's policies take images of PIL, so they come before pixels become numbers.
    if augment.auto is not None:
        steps += [v2.ToPILImage(), _auto(augment.auto, size, augment, default)]
    if jitter := _value(augment, "jitter"):
        steps.append(v2.ColorJitter(jitter, jitter, jitter))
    if flip := _value(augment, "flip"):
        steps.append(v2.RandomHorizontalFlip(flip))
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if lighting := _value(augment, "lighting"):
        steps.append(Lighting(lighting))
    steps += _finish(augment, default)
    if augment.erase:
        steps.append(v2.RandomErasing(augment.erase))
    return v2.Compose([*steps, v2.ToPureTensor()])


def eval_transform(
    augment: Augment, size: int, crop_share: float | None, default: tuple[Any, Any] = IMAGENET
) -> Transform:
    """The shorter side scaled to size / crop_share, the centre square of it, normalised as in training."""
    share = (0.875 if size >= 96 else 1.0) if crop_share is None else crop_share
    # size 224, share 0.875: the shorter side becomes 256.
    steps = [v2.Resize(round(size / share), antialias=True), v2.CenterCrop(size)]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *_finish(augment, default)]
    return v2.Compose([*steps, v2.ToPureTensor()])
