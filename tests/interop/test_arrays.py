import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.interop.joslim import decode, history, new, sample_pool
from joslim_files import contents, load, save


def renamed(path: Path, old: bytes, changed: bytes) -> Path:
    """The file with other names in its pickle."""
    out = path.with_name(f"renamed-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, changed)
            target.writestr(name, data)
    return out


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_arrays_of_numpy_1_and_2(module, tmp_path):
    path = save(tmp_path / "a.pt")
    written = np._core.multiarray._reconstruct.__module__.encode()
    if module != written:
        path = renamed(path, b"c" + written + b"\n", b"c" + module + b"\n")
    assert len(history(path, new("slim_resnet20"))) == 4


@pytest.mark.parametrize(
    "x",
    [
        np.linspace(0.3, 1, 36).reshape(3, 12).astype(np.float32),
        np.asfortranarray(np.linspace(0.3, 1, 36).reshape(3, 12)),
        np.linspace(0.3, 1, 36).reshape(3, 12).astype(">f8"),
        np.linspace(0.3, 1, 72).reshape(3, 24)[:, ::2],
        np.ones((3, 12), np.int64),
    ],
    ids=["float32", "by columns", "big endian", "strided", "whole numbers"],
)
def test_layouts_of_arrays(x, tmp_path):
    torch.save({"X": x}, tmp_path / "a.pt")
    net = new("slim_resnet20")
    assert sample_pool(tmp_path / "a.pt", net) == [decode(net, row) for row in x.tolist()]


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["value", "element", "plain pickle"])
def test_files_that_would_run_code_are_refused(kind, tmp_path):
    path, marker = tmp_path / "a.pt", tmp_path / "ran"
    evil = Evil(marker)
    found = contents("slim_resnet20") | {"X": np.array([[evil]], dtype=object) if kind == "element" else evil}
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(found))
    else:
        torch.save(found, path)
    net = new("slim_resnet20")
    for read in (
        lambda: load(path, "slim_resnet20"),
        lambda: history(path, net),
        lambda: sample_pool(path, net),
    ):
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            read()
    assert not marker.exists()
    pickle.loads(pickle.dumps(evil))
    assert marker.exists()  # it would have run


@pytest.mark.parametrize(
    "x", [np.array(["a", "b"]), np.array([(1, 2.0)], dtype="i4,f8"), np.array([1 + 2j]), np.float64(3)]
)
def test_other_arrays_are_refused(x, tmp_path):
    torch.save({"X": x}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read|expected an array of vectors, .* got float"):
        sample_pool(tmp_path / "a.pt", new("slim_resnet20"))


def test_an_array_that_was_cut(tmp_path):
    torch.save({"X": np.ones((2, 12))}, tmp_path / "a.pt")
    path = renamed(tmp_path / "a.pt", b"K\x02K\x0c", b"K\x03K\x0c")
    with pytest.raises(CheckpointError, match=r"array of shape \(3, 12\) with 24 numbers"):
        sample_pool(path, new("slim_resnet20"))
