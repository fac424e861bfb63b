"""The settings of a data set and of its augmentation."""

from dataclasses import dataclass, field
from typing import Literal

Preset = Literal["none", "cifar", "imagenet_basic", "imagenet_mobile", "imagenet_inception"]
Name = Literal[
    "digits", "cifar10", "cifar100", "svhn", "svhn_extra", "imagenet", "folder", "lmdb", "webdataset"
]
Triple = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What happens to a training image; the preset says what is not set here.

    Attributes:
        preset: "none"; "cifar": crops of the image padded by 4 pixels, flips; the published ImageNet ones:
            "imagenet_basic" and "imagenet_inception" crop at least 8 % of the area, "imagenet_mobile" 25 %, with
            colour jitter 0.4, PCA lighting 0.1 and flips.
        area: smallest part of the area that a random resized crop keeps; 0 for no such crop.
        padding: pixels around the image before a random crop of its own size.
        flip: probability of a horizontal flip.
        jitter: brightness, contrast and saturation vary by up to this share.
        lighting: standard deviation of the PCA lighting noise, on pixels in 0..1.
        auto: an automatic policy as timm names it, like "rand-m9-mstd0.5-inc1" or "augmix-m3-w3".
        erase: probability of erasing a rectangle.
        mixup, cutmix: alpha of timm's mixup and cutmix, within each process's part of a batch; 0 for none.
        mean, std: of the pixels in 0..1, one number for each colour, for training and test images.

    Raises:
        ValueError: for a number out of its range.
    """

    preset: Preset = "none"
    area: float | None = None
    padding: int | None = None
    flip: float | None = None
    jitter: float | None = None
    lighting: float | None = None
    auto: str | None = None
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mean: Triple | None = None
    std: Triple | None = None

    def __post_init__(self) -> None:
        ranges = {
            "area": (0, 1), "flip": (0, 1), "jitter": (0, 1), "erase": (0, 1),
            "lighting": (0, 10), "mixup": (0, 100), "cutmix": (0, 100), "padding": (0, 10_000),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"augment.{name} = {value!r}: expected a number from {low} to {high}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and (len(value) != 3 or (name == "std" and min(value) <= 0)):
                constraint = ", above 0" if name == "std" else ""
                raise ValueError(
                    f"augment.{name} = {list(value)}: expected three numbers, one for each colour{constraint}"
                )
        if self.auto is not None and self.auto.split("-")[0] not in ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a"):  # fmt: skip
            raise ValueError(
                f"augment.auto = {self.auto!r}: expected timm's name of a policy, like 'rand-m9-mstd0.5-inc1'"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set and how it is read.

    Attributes:
        name: "digits" (comes with scikit-learn); "cifar10", "cifar100" (torchvision's files, or a folder of images);
            "svhn", "svhn_extra" (the same; the second with the additional training images); "imagenet", "folder" (train/CLASS/FILE and val/ or test/ alike); "lmdb" (train.lmdb and val.lmdb, from
            `anywidth pack`, or in the layout of Image2LMDB, with `classes`); "webdataset" (train-*.tar and val-*.tar).
        root: folder of the data set.
        batch_size: images of a step, over all processes.
        image_size: pixels of the square that the network sees; by default that of the data set (ImageNet 224).
        crop_share: a test image is scaled so that its centre square is this share of its shorter side; by
            default 0.875 at 96 pixels and more, else 1.
        workers: processes that read images, for each process; 0 reads in the training process.
        held_out: training images that are set apart, fixed by `seed`: for the best epoch and for searches.
        seed: of the held-out images, and of the split of "digits".
        test_fraction: of "digits".
        classes: how many there have to be; to be given for Image2LMDB files, which do not say.
        corrupt_limit: unreadable images that are passed over, by each process; one more is an error.
        augment: what happens to training images.

    Raises:
        ValueError: for a number out of its range.
    """

    name: Name
    batch_size: int = 64
    root: str | None = None
    image_size: int | None = None
    crop_share: float | None = None
    workers: int = 0
    held_out: int = 0
    seed: int = 0
    test_fraction: float = 0.2
    classes: int | None = None
    corrupt_limit: int = 10
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        ranges = {
            "batch_size": (self.batch_size >= 1, "at least 1 image"),
            "image_size": (self.image_size is None or self.image_size >= 1, "at least 1 pixel"),
            "crop_share": (self.crop_share is None or 0 < self.crop_share <= 1, "0 < crop_share <= 1"),
            "workers": (self.workers >= 0, "a number of processes from 0"),
            "held_out": (self.held_out >= 0, "a number of images from 0"),
            "seed": (self.seed >= 0, "a whole number from 0"),
            "test_fraction": (0 < self.test_fraction < 1, "0 < test_fraction < 1"),
            "classes": (self.classes is None or self.classes >= 2, "at least 2"),
            "corrupt_limit": (self.corrupt_limit >= 0, "a number of images from 0"),
        }
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected {expected}")
        if (self.root is None) != (self.name == "digits"):
            what = (
                "the folder of the data set"
                if self.root is None
                else "no root: digits come with scikit-learn"
            )
            raise ValueError(f"root = {self.root!r}: expected {what}")
