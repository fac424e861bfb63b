"""Images in one LMDB file: read in any order from any disk, without millions of small files."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from anywidth.data.image2lmdb import Image2LMDB
from anywidth.data.records import Records, library
from anywidth.data.sources import decoded
from anywidth.errors import DataError
from anywidth.files import replacing

_FORMAT = "anywidth.images/1"
_META = b"meta"
_COMMIT_EVERY = 1000


class Packed:
    """A file that `pack` wrote.

    Raises:
        DataError: no such file, a damaged one, or not one of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = Records(path)
        meta = self._meta()
        self.classes = tuple(meta["classes"])
        self.count = int(meta["count"])

    def _meta(self) -> dict[str, Any]:
        try:
            meta = json.loads(self.records.get(_META) or b"null")
        except ValueError as error:
            raise DataError(f"{self.path}: its description cannot be read ({error}); pack it again") from None
        if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
            raise DataError(
                f"{self.path}: was not written by `anywidth pack`, nor by Image2LMDB; pack the folder of images again"
            )
        return meta

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[Image.Image, int]:
        record = self.records.get(_key(index))
        if record is None:
            raise ValueError("no such record")
        (label,) = struct.unpack_from("<i", record)
        return decoded(record[4:]), label

    def place(self, index: int) -> str:
        return f"{self.path}, image {index}"


def _key(index: int) -> bytes:
    # Digits of a fixed width sort like numbers, so that reading in order goes through the file in order.
    return b"%010d" % index


def _write(
    images: Iterator[tuple[bytes, int]],
    meta: dict[str, Any],
    out: Path,
    size: int,
    report: Callable[[int], None],
) -> None:
    """Encoded images and their classes; the file takes at most `size` bytes."""
    with replacing(out) as temporary:
        env = library("lmdb", "data").open(
            str(temporary), subdir=False, map_size=size, lock=False, sync=False, writemap=False
        )
        try:
            # A write transaction keeps its pages in memory, hence many; no sync before the end, as `replacing` shows the file only
            # when it is complete.
            for start in range(0, meta["count"], _COMMIT_EVERY):
                with env.begin(write=True) as transaction:
                    for index, (content, label) in enumerate(islice(images, _COMMIT_EVERY), start):
                        transaction.put(_key(index), struct.pack("<i", label) + content)
                report(min(start + _COMMIT_EVERY, meta["count"]))
            with env.begin(write=True) as transaction:
                transaction.put(_META, json.dumps(meta).encode())
            env.sync(True)
        finally:
            env.close()


def pack(
    paths: list[str],
    labels: list[int],
    classes: tuple[str, ...],
    out: Path,
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Copy encoded images, as they are, into one LMDB file, which appears whole or not at all.

    Args:
        paths: image files.
        labels: the class of each.
        classes: names.
        out: file to write.
        report: is told how many images are done, now and then.
    """
    # LMDB needs an upper bound in advance. A large record takes whole pages of its own, and the tree some more.
    size = sum(os.path.getsize(path) + 8192 for path in paths) * 5 // 4 + 2**24  # pages are 4 KiB
    images = ((Path(path).read_bytes(), label) for path, label in zip(paths, labels, strict=True))
    _write(images, {"format": _FORMAT, "classes": classes, "count": len(paths)}, out, size, report)


def repack(source: Image2LMDB, out: Path, report: Callable[[int], None] = lambda done: None) -> None:
    """Copy the images of an Image2LMDB file, as they are, into one of ours, which appears whole or not at all.

    Args:
        source: the file to read.
        out: file to write.
        report: is told how many images are done, now and then.

    Raises:
        DataError: a record cannot be read.
    """
    meta = {"format": _FORMAT, "classes": source.classes, "count": len(source)}
    _write(map(source.pair, range(len(source))), meta, out, 2 * source.records.size + 2**24, report)
