"""A file of annotations in COCO's format and its folder of images, opened with torchvision and checked."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Collection, Iterable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.datasets import CocoDetection

from anywidth.data.coco_config import Need
from anywidth.data.records import library
from anywidth.errors import DataError

_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
_HINT = "fix the file, or point to the right one"
Entry = dict[str, Any]


class CocoImages(CocoDetection):
    """torchvision's data set, which gives of each image the annotations in `kept`, and says where an image fails.

    Attributes:
        path: the file of annotations.
        kept: annotations by image id.
    """

    coco: Any  # pycocotools.coco.COCO, which may not be installed

    def __init__(self, folder: Path, path: Path) -> None:
        with redirect_stdout(io.StringIO()):  # pycocotools reports to it
            super().__init__(folder, str(path))
        self.path = path
        self.kept: dict[int, list[Entry]] = {}

    def place(self, id: int) -> str:
        """The image file and its id, for a message."""
        return f"{Path(self.root) / self.coco.imgs[id]['file_name']} (image id {id} in {self.path})"

    def _load_image(self, id: int) -> Image.Image:
        try:
            with Image.open(Path(self.root) / self.coco.imgs[id]["file_name"]) as file:
                image = file.convert("RGB")
        except FileNotFoundError:
            raise DataError(
                f"{self.place(id)}: no such file; add it, or remove it from the annotations"
            ) from None
        except Exception as error:  # decoders raise many types for a damaged image
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{self.place(id)}: cannot be read ({reason}); fetch it again") from error
        expected = self.coco.imgs[id]["width"], self.coco.imgs[id]["height"]
        if image.size != expected:
            raise DataError(
                f"{self.place(id)}: is {image.width}x{image.height} pixels, but its boxes were drawn on "
                f"{expected[0]}x{expected[1]}; put the original image there"
            )
        return image

    def _load_target(self, id: int) -> list[Entry]:
        return self.kept.get(id, [])


def opened(folder: Path, path: Path, need: Collection[Need]) -> CocoImages:
    """The images of a folder with their annotations; none is kept yet, and no image is read.

    Args:
        folder: of the images.
        path: of the annotations.
        need: what every annotation has to have.

    Raises:
        DataError: a file or folder is missing, is not JSON, lacks keys, or names an image, a category or a shape that
            does not exist; `pycocotools` is not installed.
    """
    library("pycocotools", "detect")
    if not path.is_file():
        raise DataError(f"{path}: no such file of annotations; set data.root to the folder of the data set")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of images; set data.root to the folder of the data set")
    try:
        images = CocoImages(folder, path)
    except ValueError as error:  # of JSON, or of its encoding
        raise DataError(f"{path}: is not JSON ({error}); fetch it again") from None
    except (KeyError, TypeError, AssertionError):  # the index cannot be made: say which entry it is
        check_document(json.loads(path.read_text(encoding="utf-8")), path)
        raise
    check_document(images.coco.dataset, path)
    for entry in images.coco.dataset["annotations"]:
        _check_need(entry, images.coco.imgs[entry["image_id"]], need, path)
    _check_there(images.coco.imgs.values(), folder, path)
    return images


def check_document(document: Any, path: Path) -> None:
    """Whether the document has the entries that COCO's format asks for, and they fit together.

    Raises:
        DataError: naming the first entry that does not.
    """
    # pycocotools accepts any document and fails later, with a KeyError; here the entry is named.
    by_id = {}
    for section, keys in _KEYS.items():
        entries = document.get(section) if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path}: has no list '{section}', as files in COCO's format do; {_HINT}")
        by_id[section] = _by_id(entries, section, keys, path)
    if not by_id["categories"]:
        raise DataError(f"{path}: has no categories; {_HINT}")
    for entry in document["images"]:
        if not _numbers([entry["width"], entry["height"]], 2) or min(entry["width"], entry["height"]) < 1:
            size = f"width {entry['width']!r}, height {entry['height']!r}"
            raise DataError(f"{path}: image id {entry['id']} ({entry['file_name']}): {size}; {_HINT}")
    for entry in document["annotations"]:
        image = by_id["images"].get(entry["image_id"])
        if image is None:
            raise DataError(
                f"{path}: annotation {entry['id']}: image_id {entry['image_id']!r} is none of the file's "
                f"{len(by_id['images'])} images; {_HINT}"
            )
        if entry["category_id"] not in by_id["categories"]:
            raise DataError(
                f"{where(entry, image, path)}: category_id {entry['category_id']!r} is none of the file's "
                f"{len(by_id['categories'])} categories; {_HINT}"
            )
        if not _numbers(entry["bbox"], 4):
            raise DataError(
                f"{where(entry, image, path)}: bbox {entry['bbox']!r}, expected four finite numbers [x, y, width, "
                f"height]; {_HINT}"
            )


def where(entry: Entry, image: Entry, path: Path) -> str:
    """An annotation, for a message."""
    return f"{path}: annotation {entry['id']} of image id {image['id']} ({image['file_name']})"


def _by_id(entries: list[Any], section: str, keys: tuple[str, ...], path: Path) -> dict[int, Entry]:
    entry_by_id: dict[int, Entry] = {}
    for position, entry in enumerate(entries):
        missing = [key for key in keys if key not in entry] if isinstance(entry, dict) else list(keys)
        if missing:
            named = entry if isinstance(entry, dict) else {}
            of = ", ".join(f"{key} {named[key]!r}" for key in ("id", "image_id", "file_name") if key in named)
            raise DataError(
                f"{path}: {section}[{position}]{f' ({of})' if of else ''} lacks '{missing[0]}'; {_HINT}"
            )
        # Not isinstance: True is an int.
        if type(entry["id"]) is not int:
            raise DataError(
                f"{path}: {section}[{position}]: id {entry['id']!r}, expected a whole number; {_HINT}"
            )
        if entry["id"] in entry_by_id:
            raise DataError(f"{path}: {section}[{position}]: the id {entry['id']} is used twice; {_HINT}")
        entry_by_id[entry["id"]] = entry
    return entry_by_id


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )


def _check_need(entry: Entry, image: Entry, need: Collection[Need], path: Path) -> None:
    if "masks" in need:
        shape = entry.get("segmentation")
        if not shape or not isinstance(shape, list | dict):
            raise DataError(
                f"{where(entry, image, path)}: has no segmentation, which a model with masks learns from; take a file "
                "with masks (instances_*.json), or a model without"
            )
        if isinstance(shape, dict) and list(shape.get("size", ())) != [image["height"], image["width"]]:
            raise DataError(
                f"{where(entry, image, path)}: its mask has the size {shape.get('size')!r}, the image "
                f"[{image['height']}, {image['width']}] (height, width); {_HINT}"
            )
    if "keypoints" in need and not entry.get("iscrowd"):
        points = entry.get("keypoints")
        if not points:
            raise DataError(
                f"{where(entry, image, path)}: has no keypoints, which a model with keypoints learns from; take "
                "person_keypoints_*.json (data.train_keypoints, data.val_keypoints), or a model without"
            )
        if not _numbers(points, len(points)) or len(points) % 3:
            raise DataError(
                f"{where(entry, image, path)}: {len(points)} values of keypoints, expected x, y and visibility of each; "
                f"{_HINT}"
            )


def _check_there(images: Iterable[Entry], folder: Path, path: Path) -> None:
    """One listing of the folder instead of a question for each of 118,000 files."""
    file_names = set(os.listdir(folder))
    missing = [
        e for e in images if e["file_name"] not in file_names and not (folder / e["file_name"]).is_file()
    ]
    if missing:
        suffix = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(
            f"{folder / missing[0]['file_name']} (image id {missing[0]['id']} in {path}): no such file{suffix}; add what "
            "is missing, or remove it from the annotations"
        )
