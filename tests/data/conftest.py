from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coco_images import make_coco

CLASSES = ("ant", "bee", "cat")


def picture(label: int, number: int, size: int = 40) -> Image.Image:
    """A picture whose class and number can be read from its pixels: red is the class, green the number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size + 8, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = 80 * label, number
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path) -> Callable[..., Path]:
    """Makes ROOT/{train,val}/CLASS/NUMBER.png, `each` images of every class."""

    def make(each: int = 8, val: int = 3, test: str = "val") -> Path:
        root = tmp_path / "images"
        for split, count in (("train", each), (test, val)):
            for label, name in enumerate(CLASSES):
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    picture(label, label * each + i).save(root / split / name / f"{i:03}.png")
        return root

    return make


@pytest.fixture
def root(tmp_path) -> Path:
    """A small data set in COCO's format."""
    return make_coco(tmp_path / "coco")


@pytest.fixture
def instances(root) -> Path:
    """Its file of training objects."""
    return root / "annotations" / "instances_train2017.json"
