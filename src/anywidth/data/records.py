"""LMDB files, read only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from anywidth.errors import DataError


def library(name: str, extra: str) -> Any:
    """An optional package.

    Raises:
        DataError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise DataError(f"needs the package {name}: pip install 'anywidth[{extra}]'") from None


class Records:
    """The records of an LMDB file, or of a folder with data.mdb.

    The file is opened for each reading: LMDB refuses an open file a second time in the same process and in a forked
    one, and opening takes 0.05 ms beside the milliseconds of decoding an image.

    Attributes:
        count: how many records.
        size: bytes in use.

    Raises:
        DataError: no such file, or one that is damaged or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise DataError(f"{path}: no such file; make it from a folder of images with `anywidth pack`")
        with self._open() as env:
            self.count = int(env.stat()["entries"])
            self.size = int(env.info()["last_pgno"] + 1) * int(env.stat()["psize"])
        there = (path / "data.mdb" if path.is_dir() else path).stat().st_size
        if there < self.size:  # reading on would end the process
            raise DataError(
                f"{path}: is cut short ({there} of {self.size} bytes); fetch it again, or pack it again"
            )

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            lmdb = library("lmdb", "data")
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None
        try:
            settings = {"subdir": self.path.is_dir(), "readonly": True, "lock": False, "readahead": False}
            with lmdb.open(str(self.path), **settings) as env:
                yield env
        except lmdb.Error as error:
            raise DataError(
                f"{self.path}: cannot be read as LMDB ({error}); fetch it again, or pack it again"
            ) from None

    def get(self, key: bytes) -> bytes | None:
        """The record of a key, if there is one.

        Raises:
            DataError: the file is damaged.
        """
        with self._open() as env, env.begin() as transaction:
            return transaction.get(key)
