"""Images with boxes, masks and keypoints from files in COCO's format, as torchvision's detectors take them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import wrap_dataset_for_transforms_v2
from torchvision.transforms.v2 import functional as F

from anywidth.data.coco_config import NEEDS, CocoConfig, Need
from anywidth.data.coco_files import CocoImages, Entry, opened, where
from anywidth.data.coco_noise import Noise, Target
from anywidth.data.coco_usable import keep_
from anywidth.data.imageset import Failure
from anywidth.errors import DataError
from anywidth.seeds import seeded

Item = tuple[Tensor, Target]


class CocoSet(Dataset[Any]):
    """Images and what is on them.

    An item is (image, target): image (3, H, W), float32, RGB in 0..1; target, for N objects: `boxes` (N, 4) float32,
    XYXY in pixels; `labels` (N,) int64 from 1; `image_id` int; `area` (N,) float32; `iscrowd` (N,) int64; and where they
    are needed `masks` (N, H, W) uint8 and `keypoints` (N, K, 3) float32: x, y, visibility 0, 1 or 2.

    Args:
        images: with the annotations that are kept.
        need: what of the annotations is read.
        noise: of training.

    Attributes:
        path: the file of annotations.
        ids: image ids, in order of the items.
        sizes: (n, 2) height and width of each image in pixels.
        classes: names of the classes; label k is classes[k - 1].
        raw_ids: category ids of the file, ascending; label k is raw_ids[k - 1].
        label_of: label of each category id.
        keypoints: names of the keypoints.

    Source: Lin et al., "Microsoft COCO: Common objects in context".
    """

    def __init__(self, images: CocoImages, need: Collection[Need], noise: Noise | None) -> None:
        keys = ["boxes", "labels", "image_id", "area", "iscrowd", *(["masks"] if "masks" in need else [])]
        self.images, self.need, self.noise = images, tuple(need), noise
        self.wrapped = wrap_dataset_for_transforms_v2(images, target_keys=keys)
        self.path, self.ids = images.path, tuple(images.ids)
        infos = [images.coco.imgs[id] for id in self.ids]
        self.sizes = torch.tensor([[info["height"], info["width"]] for info in infos]).view(-1, 2)
        # Category ids 1, 3, 90 become labels 1, 2, 3; 0 is the background.
        self.raw_ids = tuple(sorted(images.coco.cats))
        self.classes = tuple(str(images.coco.cats[id]["name"]) for id in self.raw_ids)
        self.label_of = {id: label for label, id in enumerate(self.raw_ids, start=1)}
        self.keypoints = keypoint_names(images) if "keypoints" in need else ()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int] | int) -> Item | Failure:
        """The item at a position; a key (position, seed) fixes the noise too."""
        position, seed = key if isinstance(key, tuple) else (key, None)
        # A failure is returned, not raised: torch would re-raise it from a worker with another text.
        with seeded(seed):
            try:
                return self.item(position)
            except DataError as error:
                return Failure(str(error))

    def item(self, position: int) -> Item:
        """The item at a position.

        Raises:
            DataError: the image or a mask cannot be read.
        """
        id = self.ids[position]
        entries = self.images.kept.get(id, [])
        try:
            pil_image, wrapped_target = self.wrapped[position]
        except DataError:
            raise
        except Exception as error:  # pycocotools raises many types for a damaged mask
            raise DataError(
                f"{self.images.place(id)}: its annotations cannot be read ({type(error).__name__}: {error})"
            ) from error
        image = F.to_image(pil_image)
        target = self._target(id, wrapped_target, entries, (int(image.shape[-2]), int(image.shape[-1])))
        if self.noise is not None:
            image, target = self.noise(image, target)
        plain = {k: v.as_subclass(Tensor) if isinstance(v, Tensor) else v for k, v in target.items()}
        return F.to_dtype(image, torch.float32, scale=True).as_subclass(Tensor), plain

    def _target(self, id: int, wrapped_target: Target, entries: list[Entry], size: tuple[int, int]) -> Target:
        """What torchvision's wrapper leaves to do: clipping, labels, lists as tensors, images without objects."""
        if not entries:
            return _empty(id, size, self.need, len(self.keypoints))
        target = {
            "boxes": F.clamp_bounding_boxes(wrapped_target["boxes"].to(torch.float32)),
            "labels": torch.tensor([self.label_of[raw] for raw in wrapped_target["labels"].tolist()]),
            "image_id": id,
            "area": torch.tensor(wrapped_target["area"], dtype=torch.float32),
            "iscrowd": torch.tensor(wrapped_target["iscrowd"], dtype=torch.int64),
        }
        if "masks" in self.need:
            target["masks"] = wrapped_target["masks"]
        if "keypoints" in self.need:
            # (x, y, visibility) of K keypoints, flat in the file: (N, 3 K) -> (N, K, 3).
            none = [0] * (3 * len(self.keypoints))  # of a crowd
            points = [entry.get("keypoints") or none for entry in entries]
            target["keypoints"] = torch.tensor(points, dtype=torch.float32).view(
                len(entries), len(self.keypoints), 3
            )
        return target


def _empty(id: int, size: tuple[int, int], need: Collection[Need], keypoints: int) -> Target:
    target: Target = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "image_id": id,
        "area": torch.zeros(0),
        "iscrowd": torch.zeros(0, dtype=torch.int64),
    }
    if "masks" in need:
        target["masks"] = torch.zeros(0, *size, dtype=torch.uint8)
    if "keypoints" in need:
        target["keypoints"] = torch.zeros(0, keypoints, 3)
    return target


def keypoint_names(images: CocoImages) -> tuple[str, ...]:
    """The keypoints, as the categories name them.

    Raises:
        DataError: they are not named, categories name different ones, or an annotation has another number of them.
    """
    named = {tuple(category.get("keypoints", ())) for category in images.coco.cats.values()}
    if len(named) != 1 or not (names := named.pop()):
        raise DataError(
            f"{images.path}: its categories name no keypoints, or not the same; give each category the list 'keypoints' "
            "of names, as in person_keypoints_*.json"
        )
    for entries in images.kept.values():
        for entry in entries:
            if entry.get("keypoints") and len(entry["keypoints"]) != 3 * len(names):
                image = images.coco.imgs[entry["image_id"]]
                raise DataError(
                    f"{where(entry, image, images.path)}: {len(entry['keypoints'])} values of keypoints, expected "
                    f"{3 * len(names)} for {len(names)} keypoints; fix the file"
                )
    return names


def mirrored(names: Sequence[str]) -> tuple[int, ...]:
    """For each keypoint, which one it is in the mirror: "left_eye" is "right_eye"; others stay."""
    # ("nose", "left_eye", "right_eye") -> (0, 2, 1). A name without its opposite maps to itself.
    opposite = {"left": "right", "right": "left"}
    index = {name: position for position, name in enumerate(names)}
    swapped = ("_".join(opposite.get(word, word) for word in name.split("_")) for name in names)
    return tuple(index.get(name, position) for position, name in enumerate(swapped))


def coco_set(
    config: CocoConfig, part: Literal["train", "val"], need: Collection[Need] = ("boxes",)
) -> CocoSet:
    """The images for training, or for testing; none is read yet.

    For training, images without a usable annotation and small ones are left out, and crowds with their masks; for
    testing every image and crowd is there.

    Args:
        config: where they are.
        part: which images.
        need: what of the annotations is read.

    Raises:
        DataError: a file is missing or wrong, or nothing is left to train on.
    """
    unknown = set(need) - set(NEEDS)
    if unknown:
        raise ValueError(f"need: {sorted(unknown)}: expected some of {', '.join(NEEDS)}")
    root = Path(config.root)
    annotation_field = "keypoints" if "keypoints" in need else "annotations"
    folder, path = (
        root / getattr(config, f"{part}_images"),
        root / getattr(config, f"{part}_{annotation_field}"),
    )
    images = opened(folder, path, need)
    keep_(images, need, crowds=part == "val")
    if part == "val":
        return CocoSet(images, need, None)
    # Only training drops images; a test without the empty ones would miss false positives on them.
    images.ids = [id for id in images.ids if _trainable(images, id, need, config.min_side)]
    if not images.ids:
        raise DataError(
            f"{path}: none of {len(images.coco.imgs)} images has an annotation to learn from and a shorter side of at "
            f"least {config.min_side} pixels; check the file and data.min_side"
        )
    swap = mirrored(keypoint_names(images)) if "keypoints" in need else ()
    return CocoSet(images, need, Noise(flip=config.flip, scale=(config.scale[0], config.scale[1]), swap=swap))


def _trainable(images: CocoImages, id: int, need: Collection[Need], min_side: int) -> bool:
    info, entries = images.coco.imgs[id], images.kept.get(id, [])
    if "keypoints" in need:
        entries = [entry for entry in entries if any(entry["keypoints"][2::3])]
    return bool(entries) and min(info["width"], info["height"]) >= min_side


@dataclass(frozen=True, kw_only=True)
class CocoSplits:
    """The parts of a data set.

    Attributes:
        train: images for training.
        test: images for testing.
        classes, raw_ids, keypoints: as of `CocoSet`, the same in both.
    """

    train: CocoSet
    test: CocoSet
    classes: tuple[str, ...]
    raw_ids: tuple[int, ...]
    keypoints: tuple[str, ...]


def load_coco(config: CocoConfig, need: Collection[Need] = ("boxes",)) -> CocoSplits:
    """Both parts of a data set; no image is read yet.

    Raises:
        DataError: a file is missing or wrong, nothing is left to train on, or the parts have other classes.
    """
    train, test = coco_set(config, "train", need), coco_set(config, "val", need)
    for name in ("raw_ids", "classes", "keypoints"):
        train_value, test_value = getattr(train, name), getattr(test, name)
        if train_value != test_value:
            difference = [f"{a!r} / {b!r}" for a, b in zip(train_value, test_value, strict=False) if a != b][
                :1
            ]
            raise DataError(
                f"{train.path}, {test.path}: {len(train_value)} and {len(test_value)} {name} for training and testing are not the "
                f"same ({difference[0] if difference else 'one has more'}); take files of one data set"
            )
    return CocoSplits(
        train=train, test=test, classes=train.classes, raw_ids=train.raw_ids, keypoints=train.keypoints
    )
