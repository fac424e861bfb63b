"""Data sets and loaders; nothing here knows about width."""

from anywidth.data.coco import CocoSet, CocoSplits, coco_set, load_coco
from anywidth.data.coco_batches import coco_eval_batches, coco_train_batches
from anywidth.data.coco_config import CocoConfig
from anywidth.data.config import Augment, DataConfig
from anywidth.data.image2lmdb import Image2LMDB
from anywidth.data.imageset import ImageSet
from anywidth.data.loading import Batches, calibration_batches, eval_batches, train_batches
from anywidth.data.packed import pack, repack
from anywidth.data.sources import Folder
from anywidth.data.splits import Splits, load

__all__ = [
    "Augment",
    "Batches",
    "CocoConfig",
    "CocoSet",
    "CocoSplits",
    "DataConfig",
    "Folder",
    "Image2LMDB",
    "ImageSet",
    "Splits",
    "calibration_batches",
    "coco_eval_batches",
    "coco_set",
    "coco_train_batches",
    "eval_batches",
    "load",
    "load_coco",
    "pack",
    "repack",
    "train_batches",
]
