import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from anywidth.data import Image2LMDB, eval_batches, load, repack, train_batches
from anywidth.data.packed import Packed
from anywidth.errors import DataError
from image2lmdb_files import FIXTURES, LABELS, WRITERS, Harmful, config, of_pyarrow, pickled, write


def without(*names: str) -> dict[str, bytes]:
    return {name: value for name, value in pickled().items() if name not in names}


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("train", "val"):
        write(tmp_path / f"{name}.lmdb", pickled())
    return tmp_path


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_is_read(tmp_path, writer, folder):
    found = Image2LMDB(write(tmp_path / "train.lmdb", WRITERS[writer](), folder=folder), 3)
    assert (len(found), found.classes) == (6, ("0", "1", "2"))
    for i, label in enumerate(LABELS):
        picture, got = found.read(i)
        assert got == label
        assert (np.array(picture) == [80 * label, i, 7]).all()


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


def test_harmful_descriptions_run_nothing(tmp_path):
    made = tmp_path / "made"
    with pytest.raises(DataError, match="record __len__: the pickle has the operation"):
        Image2LMDB(write(tmp_path / "a.lmdb", pickled(__len__=Harmful(made))), 3)
    Image2LMDB(write(tmp_path / "b.lmdb", pickled(__keys__=Harmful(made))), 3)  # not needed, not read
    assert not made.exists()


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", ["text", "three", "dictionary"])
def test_other_values_of_pyarrow(tmp_path, fixture, name):
    records = of_pyarrow(fixture)
    path = write(tmp_path / "a.lmdb", {**records, "0": records[f"refused/{name}"]})
    with pytest.raises(
        DataError, match=rf"{path}, record 0: cannot be read .*pickle\.dumps\(pyarrow\.deserialize"
    ):
        Image2LMDB(path, 3)


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
