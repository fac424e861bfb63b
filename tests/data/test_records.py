import random
from pathlib import Path

import pytest

from anywidth.data import load
from anywidth.data.python_values import decoder
from anywidth.errors import DataError
from image2lmdb_files import config, pickled, write


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("train", "val"):
        write(tmp_path / f"{name}.lmdb", pickled())
    return tmp_path


def test_damaged_files(root):
    path = root / "train.lmdb"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"train\.lmdb: is cut short \(\d+ of \d+ bytes\); fetch it again"):
        load(config(root))
    path.write_bytes(random.Random(0).randbytes(len(content)))
    with pytest.raises(DataError, match="cannot be read as LMDB"):
        load(config(root))
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read as LMDB"):
        load(config(root))


def test_a_missing_package_is_named(root, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(DataError, match=r"needs the package msgpack: pip install 'anywidth\[image2lmdb\]'"):
        decoder(b"\x05")(b"\x05")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs the package pyarrow"):
        decoder(bytes(20))(bytes(20))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(
        DataError, match=r"train\.lmdb: needs the package lmdb: pip install 'anywidth\[data\]'"
    ):
        load(config(root))
