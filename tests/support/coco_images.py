"""A small data set in COCO's format: coloured shapes with polygons, keypoints, a crowd and images without anything."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from anywidth.data import CocoConfig

CATEGORIES = {1: "person", 3: "triangle", 7: "disc"}  # as in COCO, numbers are left out
COLOURS = {1: (200, 40, 40), 3: (40, 200, 40), 7: (40, 40, 200)}
KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
TRAIN_SIZES = ((96, 64), (64, 96), (96, 72), (80, 64), (64, 80), (100, 64))  # width, height
EMPTY = 3  # the number of the image without annotations, in both parts
CROWD = 2  # the number of the image whose first annotation is a crowd


def make_coco(root: Path, *, train: int = 6, val: int = 4, objects: int = 3, seed: int = 0) -> Path:
    """Write {train,val}2017/NUMBER.png and annotations/{instances,person_keypoints}_{train,val}2017.json.

    Args:
        root: folder; made if it is not there.
        train, val: images of each part; image ids are 1, 2, ... and 101, 102, ...
        objects: on each image; the first is a person.
        seed: of places, sizes and noise.
    """
    (root / "annotations").mkdir(parents=True)
    draws = np.random.default_rng(seed)
    for part, count, first in (("train2017", train, 1), ("val2017", val, 101)):
        (root / part).mkdir()
        images, annotations = [], []
        for number in range(count):
            size = TRAIN_SIZES[number % len(TRAIN_SIZES)]
            name = f"{first + number:012}.png"
            picture = Image.fromarray(draws.integers(90, 120, (size[1], size[0], 3), dtype=np.uint8))
            images.append({"id": first + number, "file_name": name, "width": size[0], "height": size[1]})
            if number == CROWD:
                annotations.append(crowd(size))
            if number != EMPTY:
                places = draws.permutation(6)[:objects]
                annotations += [
                    figure(picture, (1, 3, 7)[k % 3], place, draws) for k, place in enumerate(places)
                ]
            for entry in annotations:
                entry.setdefault("image_id", first + number)
                entry.setdefault("id", len(annotations) + 1000 * first + annotations.index(entry))
            picture.save(root / part / name)
        write(root / "annotations" / f"instances_{part}.json", images, annotations)
        write_keypoints(root / "annotations" / f"person_keypoints_{part}.json", images, annotations)
    return root


def figure(picture: Image.Image, category: int, place: int, draws: np.random.Generator) -> dict:
    """Draw one shape into the cell of a 3 x 2 or 2 x 3 grid; its annotation."""
    columns = 3 if picture.width > picture.height else 2
    cell = picture.width // columns, picture.height // (6 // columns)
    width, height = (int(draws.integers(side // 2, side - 2)) for side in cell)
    x, y = (place % columns) * cell[0] + 1, (place // columns) * cell[1] + 1
    corners = {
        1: [(x, y), (x + width, y), (x + width, y + height), (x, y + height)],
        3: [(x + width / 2, y), (x + width, y + height), (x, y + height)],
        7: [
            (x + width / 2 * (1 + np.cos(a)), y + height / 2 * (1 + np.sin(a)))
            for a in np.arange(12) * np.pi / 6
        ],
    }[category]
    ImageDraw.Draw(picture).polygon(corners, fill=COLOURS[category])
    polygon = [float(value) for corner in corners for value in corner]
    area = 0.5 * abs(
        sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
    )
    return {
        "category_id": category,
        "bbox": [float(x), float(y), float(width), float(height)],
        "segmentation": [polygon],
        "area": float(area),
        "iscrowd": 0,
    }


def crowd(size: tuple[int, int]) -> dict:
    """The left 10 columns as a crowd of discs, as run lengths in column order."""
    width, height = size
    return {
        "category_id": 7,
        "bbox": [0.0, 0.0, 10.0, float(height)],
        "segmentation": {"counts": [0, 10 * height, (width - 10) * height], "size": [height, width]},
        "area": 10.0 * height,
        "iscrowd": 1,
    }


def points(entry: dict) -> list[int]:
    """17 keypoints in a person's box: left ones at the right of it; the last is not labelled, the first is hidden."""
    x, y, width, height = entry["bbox"]
    found = []
    for k, name in enumerate(KEYPOINTS):
        side = {"left": 0.8, "right": 0.2}.get(name.split("_")[0], 0.5)
        found += [int(x + side * width), int(y + height * (k + 0.5) / len(KEYPOINTS)), 1 if k == 0 else 2]
    return [*found[:-3], 0, 0, 0]


def write(path: Path, images: list[dict], annotations: list[dict], **more: list[str]) -> None:
    categories = [{"id": id, "name": name, **more} for id, name in CATEGORIES.items()]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_keypoints(path: Path, images: list[dict], annotations: list[dict]) -> None:
    people = [
        {**entry, "keypoints": points(entry), "num_keypoints": 16}
        for entry in annotations
        if entry["category_id"] == 1
    ]
    person = {"id": 1, "name": "person", "keypoints": list(KEYPOINTS)}
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [person]}))


def config_of(root: Path, **values: object) -> CocoConfig:
    """Settings without flips, two images a batch."""
    return CocoConfig(**{"root": str(root), "batch_size": 2, "flip": 0.0, **values})


def edit(path: Path, change: Callable[[dict], object]) -> dict:
    """Change a file of annotations in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return document
