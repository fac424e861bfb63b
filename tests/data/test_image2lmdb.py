import os
import pickle
import random
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch

from anywidth.data import (
    DataConfig,
    Image2LMDB,
    eval_batches,
    load,
    repack,
    train_batches,
)
from anywidth.data.packed import Packed
from anywidth.data.python_values import decoder
from anywidth.errors import DataError

FIXTURES = sorted((Path(__file__).parent / "image2lmdb").glob("pyarrow-*.zip"))
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


def without(*names: str) -> dict[str, bytes]:
    return {name: value for name, value in pickled().items() if name not in names}


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("train", "val"):
        write(tmp_path / f"{name}.lmdb", pickled())
    return tmp_path


def config(root: Path, **changes) -> DataConfig:
    settings = {"batch_size": 2, "image_size": 8, "classes": 3, **changes}
    return DataConfig(name="lmdb", root=str(root), **settings)


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_is_read(tmp_path, writer, folder):
    found = Image2LMDB(write(tmp_path / "train.lmdb", WRITERS[writer](), folder=folder), 3)
    assert (len(found), found.classes) == (6, ("0", "1", "2"))
    for i, label in enumerate(LABELS):
        picture, got = found.read(i)
        assert got == label
        assert (np.array(picture) == [80 * label, i, 7]).all()


@pytest.mark.parametrize("pack", [*(lambda v, p=p: pickle.dumps(v, p) for p in (3, 4, 5)), None])
def test_large_images_are_read(pack):
    if pack is None:
        pack = pytest.importorskip("msgpack", reason="is in the extra dev").packb
    pair = (random.Random(0).randbytes(200_000), 999)
    assert decoder(pack(1_300_000))(pack(1_300_000)) == 1_300_000
    assert tuple(decoder(pack(1_300_000))(pack(pair))) == pair


def test_the_fixtures_span_the_formats_of_pyarrow():
    assert [path.stem for path in FIXTURES] == [
        f"pyarrow-{v}" for v in ("0.14.1", "0.17.1", "1.0.1", "11.0.0")
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_with_and_without_processes(root, workers):
    settings = config(root, workers=workers, corrupt_limit=0)
    splits = load(settings)
    splits.train[0]  # read here before the processes begin
    batches = list(eval_batches(splits.test, settings, batch_size=4))
    assert [x.shape for x, _ in batches] == [(4, 3, 8, 8), (2, 3, 8, 8)]
    assert torch.cat([y for _, y in batches]).tolist() == LABELS
    reds = torch.cat([x[:, 0].mean((1, 2)) for x, _ in batches]) * 0.229 + 0.485
    assert (reds * 255 / 80).round().int().tolist() == LABELS
    assert len(list(train_batches(splits, settings, seed=0, epoch=0))) == 3
    assert splits.corrupt() == 0


def test_a_set_that_is_open_can_be_loaded_again(root):
    first = load(config(root))
    first.train[0]
    assert torch.equal(load(config(root)).train[1][0], first.train[1][0])


class Harmful:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("index", [0, 3])
def test_a_harmful_pickle_runs_nothing_and_ends_the_reading(tmp_path, protocol, index):
    made = tmp_path / "made"
    write(tmp_path / "val.lmdb", pickled())
    path = write(
        tmp_path / "train.lmdb",
        {**pickled(), str(index): pickle.dumps((b"image", Harmful(made)), protocol)},
    )
    with pytest.raises(
        DataError,
        match=rf"{path}, record {index}: the pickle has the operation (GLOBAL|SHORT_BINUNICODE), .*not unpickled",
    ):
        list(eval_batches(load(config(tmp_path)).train, config(tmp_path)))
    assert not made.exists()
    pickle.loads(pickle.dumps(Harmful(made), protocol))
    assert made.exists()  # it would have


def test_harmful_descriptions_run_nothing(tmp_path):
    made = tmp_path / "made"
    with pytest.raises(DataError, match="record __len__: the pickle has the operation"):
        Image2LMDB(write(tmp_path / "a.lmdb", pickled(__len__=Harmful(made))), 3)
    Image2LMDB(write(tmp_path / "b.lmdb", pickled(__keys__=Harmful(made))), 3)  # not needed, not read
    assert not made.exists()


@pytest.mark.parametrize("writer", ["pickle4", "msgpack", "pyarrow-0.14.1", "pyarrow-11.0.0"])
def test_damaged_values_end_in_no_other_error(writer):
    records, chance = WRITERS[writer](), random.Random(0)
    decode, refused = decoder(records["__len__"]), 0
    for _ in range(3000):
        spoilt = bytearray(records["3"])
        for _ in range(chance.choice([1, 3])):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        if chance.random() < 0.5:
            del spoilt[chance.randrange(len(spoilt)) :]
        try:
            decode(bytes(spoilt))
        except (ValueError, DataError):
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["text", "three", "dictionary"])
def test_other_values_of_pyarrow(tmp_path, fixture, name):
    records = of_pyarrow(fixture)
    path = write(tmp_path / "a.lmdb", {**records, "0": records[f"refused/{name}"]})
    with pytest.raises(
        DataError, match=rf"{path}, record 0: cannot be read .*pickle\.dumps\(pyarrow\.deserialize"
    ):
        Image2LMDB(path, 3)


def test_arrays_beside_the_values_are_refused():
    pytest.importorskip("pyarrow", reason="is in the extra dev")
    with pytest.raises(ValueError, match="arrays or objects of pyarrow"):
        decoder(bytes(16))(bytes(12) + b"\1" + bytes(40))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("image", 1), "operation SHORT_BINUNICODE"),
        ((b"image", 1.0), "operation BINFLOAT"),
        ((b"image", True), "operation NEWTRUE"),
        ((b"image", 1, 2), "operation TUPLE3"),
        ((1, b"image"), r"type list, expected the pair \(bytes of an image, class\)"),
        (b"image", "type bytes, expected the pair"),
        ((b"image", 3), r"is of class 3, expected 0 to 2; set the number of classes \(data\.classes"),
        ((b"image", -1), "is of class -1"),
    ],
)
def test_other_values(tmp_path, value, message):
    with pytest.raises(DataError, match=rf"a\.lmdb, record 5: .*{message}"):
        Image2LMDB(write(tmp_path / "a.lmdb", pickled(**{"5": value})), 3)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (without("__len__"), "has no record __len__; a file in the layout of Image2LMDB"),
        (without("__keys__"), "has no record __keys__"),
        (pickled(__len__=7), "__len__ says 7, but it holds 6 images"),
        (pickled(__len__=b"6"), "__len__ says b'6'"),
        ({**pickled(), "__len__": b"\x80"}, "record __len__: "),
        (without("5", "__len__") | {"__len__": pickle.dumps(5), "9": b""}, "says 5, but it holds 6"),
        (without("5") | {"9": b""}, r"record 5: cannot be read \(no such record\)"),
        (
            {"name": b"x"},
            "was not written by `anywidth pack`, nor by Image2LMDB",
        ),
    ],
)
def test_incomplete_files(root, tmp_path, records, message):
    (root / "train.lmdb").unlink()
    write(root / "train.lmdb", records)
    with pytest.raises(DataError, match=message):
        load(config(root))


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


def test_the_number_of_classes_has_to_be_given(root):
    with pytest.raises(DataError, match=r"does not say how many classes there are; set data\.classes"):
        load(config(root, classes=None))


def test_unreadable_records_are_counted(root):
    (root / "train.lmdb").unlink()
    write(root / "train.lmdb", {**pickled(**{"2": (b"no image", 1)}), "3": b"\x80\x04\x95"})
    splits = load(config(root, corrupt_limit=2))
    labels = torch.cat([y for _, y in eval_batches(splits.train, config(root))])
    assert splits.corrupt() == 2
    assert labels.tolist() == [0, 0, 2, 2, 2, 2]  # the next readable one takes the place
    with pytest.raises(DataError, match=r"record 3: cannot be read \(ValueError: .*and 1 before it"):
        list(eval_batches(load(config(root, corrupt_limit=1)).train, config(root)))


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


def test_repacked_images_are_the_same(root, tmp_path):
    source, done = Image2LMDB(root / "train.lmdb", 3), []
    repack(source, tmp_path / "out.lmdb", done.append)
    found = Packed(tmp_path / "out.lmdb")
    assert (found.classes, len(found), done) == (source.classes, 6, [6])
    for i in range(6):
        (a, x), (b, y) = source.read(i), found.read(i)
        assert (a.tobytes(), x) == (b.tobytes(), y)


def test_repacking_stops_at_an_unreadable_record(tmp_path):
    path = write(tmp_path / "a.lmdb", {**pickled(), "3": b"\x80\x04\x95"})
    with pytest.raises(DataError, match=r"a\.lmdb, record 3: cannot be read"):
        repack(Image2LMDB(path, 3), tmp_path / "out.lmdb")
    assert not list(tmp_path.glob("*out.lmdb"))
