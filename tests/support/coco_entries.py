"""What the files of a data set in COCO's format say, drawn by hand."""

import json

import numpy as np
from PIL import Image, ImageDraw

from anywidth.data import coco_set
from coco_images import config_of

MASKS, POINTS = ("boxes", "masks"), ("boxes", "masks", "keypoints")


def entries_of(path, image_id):
    return [e for e in json.loads(path.read_text())["annotations"] if e["image_id"] == image_id]


def drawn(entry, size) -> np.ndarray:
    """A polygon by another library than pycocotools."""
    canvas = Image.new("L", size)
    ImageDraw.Draw(canvas).polygon(entry["segmentation"][0], fill=1)
    return np.array(canvas)


def overlap(a, b) -> float:
    return float((a & b).sum() / (a | b).sum())


def train_set(root, need=("boxes",), **values):
    """The training images of a data set, with what is needed of each."""
    return coco_set(config_of(root, **values), "train", need)
