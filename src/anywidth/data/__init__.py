"""Data sets and loaders; nothing here knows about width."""

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
    "DataConfig",
    "Folder",
    "Image2LMDB",
    "ImageSet",
    "Splits",
    "calibration_batches",
    "eval_batches",
    "load",
    "pack",
    "repack",
    "train_batches",
]
