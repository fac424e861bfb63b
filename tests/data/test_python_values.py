import pickle
import random
from pathlib import Path

import pytest

from anywidth.data import Image2LMDB, eval_batches, load
from anywidth.data.python_values import decoder
from anywidth.errors import DataError
from image2lmdb_files import WRITERS, Harmful, config, pickled, write


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("train", "val"):
        write(tmp_path / f"{name}.lmdb", pickled())
    return tmp_path


@pytest.mark.parametrize("pack", [*(lambda v, p=p: pickle.dumps(v, p) for p in (3, 4, 5)), None])
def test_large_images_are_read(pack):
    if pack is None:
        pack = pytest.importorskip("msgpack", reason="is in the extra dev").packb
    pair = (random.Random(0).randbytes(200_000), 999)
    assert decoder(pack(1_300_000))(pack(1_300_000)) == 1_300_000
    assert tuple(decoder(pack(1_300_000))(pack(pair))) == pair


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
