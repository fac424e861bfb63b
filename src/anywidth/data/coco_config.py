"""The settings of a data set with annotations in COCO's format."""

import math
from dataclasses import dataclass
from typing import Literal

Need = Literal["boxes", "masks", "keypoints"]
NEEDS: tuple[Need, ...] = ("boxes", "masks", "keypoints")


@dataclass(frozen=True, kw_only=True)
class CocoConfig:
    """Where images and annotations are, and how they are read. How large the network sees them is the model's own.

    Attributes:
        root: folder that the other paths start from.
        train_images, val_images: folders of images.
        train_annotations, val_annotations: files of boxes and masks.
        train_keypoints, val_keypoints: files that are read in their place for keypoints.
        batch_size: images of a step, over all processes.
        eval_batch_size: images that a process evaluates at once. Images of a batch are padded to one size, which moves
            the results a little: 1 for the same results whatever the number of processes.
        workers: processes that read images, for each process; 0 reads in the training process.
        flip: probability of a horizontal flip.
        scale: lowest and highest factor of the size of objects: a training image is scaled by a factor between them,
            then cropped at a random place, or put at a random place on black, to its own size.
        min_side: training images with a shorter side below this number of pixels are left out.
        sigmas: spread of each keypoint, by which they are measured; empty for those of COCO's 17.

    Raises:
        ValueError: for a number out of its range.
    """

    root: str
    train_images: str = "train2017"
    val_images: str = "val2017"
    train_annotations: str = "annotations/instances_train2017.json"
    val_annotations: str = "annotations/instances_val2017.json"
    train_keypoints: str = "annotations/person_keypoints_train2017.json"
    val_keypoints: str = "annotations/person_keypoints_val2017.json"
    batch_size: int = 16
    eval_batch_size: int = 1
    workers: int = 0
    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    min_side: int = 32
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.scale
        ranges = {
            "batch_size": (self.batch_size >= 1, "at least 1 image"),
            "eval_batch_size": (self.eval_batch_size >= 1, "at least 1 image"),
            "workers": (self.workers >= 0, "a number of processes from 0"),
            "flip": (0 <= self.flip <= 1, "a probability from 0 to 1"),
            "scale": (0.05 <= low <= high <= 20, "two factors, 0.05 <= lowest <= highest <= 20"),
            "min_side": (self.min_side >= 1, "at least 1 pixel"),
            "sigmas": (all(0 < s < math.inf for s in self.sigmas), "numbers above 0, one for each keypoint"),
        }
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected {expected}")
