"""Images as other writers put them into LMDB files."""

import os
import pickle
import zipfile
from pathlib import Path

import lmdb
import pytest

from anywidth.data import DataConfig

FIXTURES = sorted((Path(__file__).parents[1] / "data" / "image2lmdb").glob("pyarrow-*.zip"))
LABELS = [0, 0, 1, 1, 2, 2]


def image(number: int, label: int) -> bytes:
    return b"P6 8 8 255\n" + bytes([80 * label, number, 7]) * 64


def values() -> dict[str, object]:
    """What the fixtures hold."""
    pairs = {str(i): (image(i, label), label) for i, label in enumerate(LABELS)}
    return {**pairs, "__keys__": [b"%d" % i for i in range(len(LABELS))], "__len__": len(LABELS)}


def pickled(protocol: int = 4, **changes) -> dict[str, bytes]:
    return {name: pickle.dumps(value, protocol) for name, value in {**values(), **changes}.items()}


def msgpacked(**options) -> dict[str, bytes]:
    msgpack = pytest.importorskip("msgpack", reason="is in the extra dev")
    return {name: msgpack.packb(value, **options) for name, value in values().items()}


def of_pyarrow(fixture: Path) -> dict[str, bytes]:
    pytest.importorskip("pyarrow", reason="is in the extra dev")
    with zipfile.ZipFile(fixture) as file:
        return {name: file.read(name) for name in file.namelist()}


WRITERS = {
    "pickle3": lambda: pickled(3),
    "pickle4": lambda: pickled(4),
    "pickle5": lambda: pickled(5),
    "msgpack": msgpacked,
    "old_msgpack": lambda: msgpacked(use_bin_type=False),
    **{path.stem: (lambda path=path: of_pyarrow(path)) for path in FIXTURES},
}


def write(path: Path, records: dict[str, bytes], *, folder: bool = False) -> Path:
    env = lmdb.open(str(path), subdir=folder, map_size=2**24, lock=False)
    with env.begin(write=True) as transaction:
        for name, value in records.items():
            if "/" not in name:
                transaction.put(name.encode(), value)
    env.close()
    return path


def config(root: Path, **changes) -> DataConfig:
    settings = {"batch_size": 2, "image_size": 8, "classes": 3, **changes}
    return DataConfig(name="lmdb", root=str(root), **settings)


class Harmful:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)
