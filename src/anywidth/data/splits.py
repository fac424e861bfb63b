"""A data set in its parts: for training, for testing, and training images set apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2

from anywidth.data.config import DataConfig
from anywidth.data.image2lmdb import Image2LMDB, is_image2lmdb
from anywidth.data.imageset import ImageSet, Unreadable
from anywidth.data.packed import Packed
from anywidth.data.shards import Shards
from anywidth.data.sources import Folder, ImageSource, cifar, digits, svhn
from anywidth.data.transforms import CIFAR, IMAGENET, SVHN, Transform, eval_transform, train_transform
from anywidth.errors import DataError
from anywidth.seeds import generator

_HELD_OUT = 10
_CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "svhn_extra": 10, "imagenet": 1000, "digits": 10}
_PIXELS = {"cifar10": CIFAR, "cifar100": CIFAR, "svhn": SVHN, "svhn_extra": SVHN}  # of images of 32 pixels


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The parts of a data set.

    Attributes:
        train: images with the noise of training, without those held out.
        test: images for testing.
        held_out: training images set apart, seen as in testing; None where none are.
        classes: names of the classes.
    """

    train: ImageSet
    test: ImageSet
    held_out: ImageSet | None
    classes: tuple[str, ...]

    def corrupt(self) -> int:
        """How many images could not be read so far, by this process and its reading processes."""
        return self.train.unreadable.count + self.test.unreadable.count


def load(config: DataConfig) -> Splits:
    """Find the images of a data set; none is read yet.

    Raises:
        DataError: the folder or file does not exist, a class is empty, or the classes are not those expected.
    """
    train, test = _sources(config)
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))[:3]
        raise DataError(
            f"{config.root}: {len(train.classes)} classes for training and {len(test.classes)} for testing are not "
            f"the same ({', '.join(differing) or 'in another order'}); give both the same folders"
        )
    expected = config.classes or _CLASSES.get(config.name)
    if expected is not None and len(train.classes) != expected:
        raise DataError(
            f"{config.root}: {len(train.classes)} classes ({', '.join(train.classes[:3])}, ...), expected {expected}; "
            "check data.root, or set data.classes"
        )
    kept, held_out = _cut(len(train), config)
    noisy, plain = _transforms(config)
    # Held-out images are training images: one count of failures, but the transform of testing.
    counts = Unreadable(len(train), config.corrupt_limit), Unreadable(len(test), config.corrupt_limit)
    return Splits(
        train=ImageSet(train, kept, noisy, counts[0], replace=True),
        test=ImageSet(test, torch.arange(len(test)), plain, counts[1], replace=False),
        held_out=ImageSet(train, held_out, plain, counts[0], replace=False) if len(held_out) else None,
        classes=train.classes,
    )


def _cut(size: int, config: DataConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Training images that stay, and those held out."""
    if config.held_out >= size:
        raise DataError(
            f"data.held_out = {config.held_out}: leaves none of the {size} training images; lower it"
        )
    if config.held_out == 0:
        return torch.arange(size), torch.arange(0)
    # size 6, held_out 2, order (4, 0, 5, 1, 3, 2): held out (0, 4), the others (1, 2, 3, 5).
    order = torch.randperm(size, generator=generator(config.seed, _HELD_OUT))
    return order[config.held_out :].sort().values, order[: config.held_out].sort().values


def _sources(config: DataConfig) -> tuple[ImageSource, ImageSource]:
    """For training, and for testing."""
    if config.name == "digits":
        return digits(test_fraction=config.test_fraction, seed=config.seed)
    root = Path(config.root or "")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root to the folder of the data set")
    match config.name:
        case "lmdb":
            return _lmdb(root / "train.lmdb", config), _lmdb(_test(root, "{}.lmdb"), config)
        case "webdataset":
            name = "val" if list(root.glob("val*.tar")) or not list(root.glob("test*.tar")) else "test"
            return Shards(root, "train"), Shards(root, name)
        case "cifar10" | "cifar100" as name if not (root / "train").is_dir():
            return cifar(name, root, train=True), cifar(name, root, train=False)
        case "svhn" | "svhn_extra" as name if not (root / "train").is_dir():
            return svhn(root, train=True, extra=name == "svhn_extra"), svhn(root, train=False)
    return Folder(root / "train"), Folder(_test(root, "{}"))


def _lmdb(path: Path, config: DataConfig) -> ImageSource:
    if not is_image2lmdb(path):
        return Packed(path)
    if config.classes is None:
        raise DataError(f"{path}: does not say how many classes there are; set data.classes")
    return Image2LMDB(path, config.classes)


def _test(root: Path, form: str) -> Path:
    """val, or test where there is no val."""
    # "val" where there are both, or neither: then the message names "val".
    val, test = (root / form.format(name) for name in ("val", "test"))
    return test if test.exists() and not val.exists() else val


def _transforms(config: DataConfig) -> tuple[Transform | None, Transform | None]:
    if config.name == "digits":
        return _digits_transform(config), None
    size = config.image_size or (32 if config.name in _PIXELS else 224)
    pixels = _PIXELS.get(config.name, IMAGENET)
    return (
        train_transform(config.augment, size, pixels),
        eval_transform(config.augment, size, config.crop_share, pixels),
    )


def _digits_transform(config: DataConfig) -> Transform | None:
    """Digits are numbers, not colours: they can be moved and mixed, but not recoloured."""
    augment = config.augment
    refused = {
        "preset": augment.preset != "none",
        **{
            name: bool(getattr(augment, name))
            for name in ("area", "jitter", "lighting", "auto", "mean", "std")
        },
    }
    for name, wrong in refused.items():
        if wrong:
            raise DataError(
                f"data.augment.{name} = {getattr(augment, name)!r}: is for colour images; digits take padding, flip, "
                "erase, mixup and cutmix"
            )
    if config.image_size not in (None, 8):
        raise DataError(f"data.image_size = {config.image_size}: digits have 8 pixels")
    steps: list[Any] = []
    if augment.padding:
        steps.append(v2.RandomCrop(8, padding=augment.padding, fill=-1))
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.erase:
        steps.append(v2.RandomErasing(augment.erase))
    return v2.Compose(steps) if steps else None
