"""Flips and scaling of an image together with its boxes, masks and keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

Target = dict[str, Any]
INSTANCE = ("boxes", "labels", "area", "iscrowd", "masks", "keypoints")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What happens to a training image, drawn from torch's global generator.

    Attributes:
        flip: probability of a horizontal flip.
        scale: lowest and highest factor of the size of objects.
        swap: for each keypoint, which one it is in the mirror.
    """

    flip: float
    scale: tuple[float, float]
    swap: tuple[int, ...] = ()

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Args: image (3, H, W); target with boxes and masks as tv_tensors. The image keeps its size."""
        # All four numbers are drawn in any case: the same noise for an image whether it is scaled or not.
        flip, factor, *position = torch.rand(4).tolist()
        if self.scale != (1.0, 1.0):
            low, high = self.scale
            image, target = rescaled(image, target, low + (high - low) * factor, (position[0], position[1]))
        return flipped(image, target, self.swap) if flip < self.flip else (image, target)


def flipped(image: Tensor, target: Target, swap: tuple[int, ...]) -> tuple[Tensor, Target]:
    """The mirror image; a left hand becomes a right one, with its own visibility."""
    target = dict(target)
    for key in ("boxes", "masks"):
        if key in target:
            target[key] = F.horizontal_flip(target[key])
    if "keypoints" in target:
        # (N, K, 3): mirroring a person turns the left hand into the right one, so the order of keypoints changes too.
        points = target["keypoints"][:, list(swap)]
        size = int(image.shape[-2]), int(image.shape[-1])
        target["keypoints"] = _points(F.horizontal_flip_keypoints(points[..., :2], size), points[..., 2])
    return F.horizontal_flip(image), target


def rescaled(
    image: Tensor, target: Target, factor: float, position: tuple[float, float]
) -> tuple[Tensor, Target]:
    """The image scaled, then cropped or put on black to its own size; objects that are cut away are left out.

    Args:
        image: (3, H, W).
        target: of the image.
        factor: of height and width.
        position: horizontal and vertical position of the part that is kept, from 0 to 1.
    """
    height, width = image.shape[-2:]
    # An image of 100 x 200 (H, W). Factor 2: resized to 200 x 400, of which a window of 100 x 200 is cropped. Factor 0.5:
    # resized to 50 x 100; the offsets are negative, and `crop` fills the rest of the window with black.
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    x_offset, y_offset = round((size[1] - width) * position[0]), round((size[0] - height) * position[1])

    def moved(value: Any) -> Any:
        return F.crop(F.resize(value, size, antialias=True), y_offset, x_offset, height, width)

    target = dict(target)
    for key in ("boxes", "masks"):
        if key in target:
            target[key] = moved(target[key])
    factors = torch.tensor([size[1] / width, size[0] / height])
    target["area"] = target["area"] * factors.prod()
    if "keypoints" in target:
        points = target["keypoints"]
        # A keypoint is the number of a pixel, whose centre lies half a pixel further.
        xy = (points[..., :2] + 0.5) * factors - 0.5 - torch.tensor([x_offset, y_offset])
        inside = ((xy >= -0.5) & (xy < torch.tensor([width, height]) - 0.5)).all(-1)
        target["keypoints"] = _points(xy, points[..., 2] * inside)
    boxes = target["boxes"]
    return moved(image), only(target, (boxes[:, 2:] - boxes[:, :2] >= 1).all(1))


def only(target: Target, which: Tensor) -> Target:
    """The objects of a mask (N,)."""
    kept = {}
    for key, value in target.items():
        kept[key] = value[which] if key in INSTANCE else value
        if isinstance(value, tv_tensors.TVTensor):  # indexing forgets that these are boxes
            kept[key] = tv_tensors.wrap(kept[key], like=value)  # pyright: ignore[reportCallIssue]
    return kept


def _points(xy: Tensor, visibility: Tensor) -> Tensor:
    """(N, K, 3); a keypoint that is not labelled lies at 0, 0."""
    return torch.cat([xy * (visibility > 0)[..., None], visibility[..., None]], -1)
