"""Images in one LMDB file: read in any order from any disk, without millions of small files."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from anywidth.errors import DataError
from anywidth.files import replacing

_FORMAT = "anywidth.images/1"
_META = b"meta"
_COMMIT_EVERY = 1000


def _lmdb() -> Any:
    try:
        import lmdb
    except ImportError:
        raise DataError("LMDB files need the package lmdb: pip install 'anywidth[data]'") from None
    return lmdb


class Packed:
    """A file that `pack` wrote.

    Raises:
        DataError: no such file, or not one of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._env: Any = None
        self._process = -1
        _lmdb()
        if not path.is_file():
            raise DataError(f"{path}: no such file; make it from a folder of images with `anywidth pack`")
        meta = self._meta()
        self.classes = tuple(meta["classes"])
        self.count = int(meta["count"])
        self._close()

    def _meta(self) -> dict[str, Any]:
        try:
            meta = json.loads(bytes(self._get(_META) or b"null"))
        except (_lmdb().Error, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read as LMDB ({error}); pack it again") from None
        if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
            raise DataError(
                f"{self.path}: was not written by `anywidth pack`; pack the folder of images again"
            )
        return meta

    def _close(self) -> None:
        """Before a fork: an open environment must not be shared by processes."""
        if self._env is not None:
            self._env.close()
        self._env = None

    def _get(self, key: bytes) -> bytes | None:
        if self._env is None or self._process != os.getpid():
            self._env = _lmdb().open(
                str(self.path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=512
            )
            self._process = os.getpid()
        with self._env.begin() as transaction:
            return transaction.get(key)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None}

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[Image.Image, int]:
        found = self._get(_key(index))
        if found is None:
            raise ValueError("no such record")
        (label,) = struct.unpack_from("<i", found)
        with Image.open(io.BytesIO(found[4:])) as image:
            return image.convert("RGB"), label

    def place(self, index: int) -> str:
        return f"{self.path}, image {index}"


def _key(index: int) -> bytes:
    return b"%010d" % index


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
    size = sum(os.path.getsize(path) + 8192 for path in paths) * 5 // 4 + 2**24  # pages are 4 KiB
    with replacing(out) as temporary:
        env = _lmdb().open(
            str(temporary), subdir=False, map_size=size, lock=False, sync=False, writemap=False
        )
        try:
            for start in range(0, len(paths), _COMMIT_EVERY):
                with env.begin(write=True) as transaction:
                    part = slice(start, start + _COMMIT_EVERY)
                    for index, (path, label) in enumerate(zip(paths[part], labels[part], strict=True), start):
                        transaction.put(_key(index), struct.pack("<i", label) + Path(path).read_bytes())
                report(min(start + _COMMIT_EVERY, len(paths)))
            meta = {"format": _FORMAT, "classes": classes, "count": len(paths)}
            with env.begin(write=True) as transaction:
                transaction.put(_META, json.dumps(meta).encode())
            env.sync(True)
        finally:
            env.close()
