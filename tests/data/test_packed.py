import lmdb
import pytest
import torch

from anywidth.data import DataConfig, eval_batches, load, pack
from anywidth.data.packed import Packed
from anywidth.data.sources import Folder
from anywidth.errors import DataError


@pytest.fixture
def packed(folder, tmp_path):
    root = folder()
    for split in ("train", "val"):
        found = Folder(root / split)
        pack(found.paths, found.labels.tolist(), found.classes, tmp_path / f"{split}.lmdb")
    return tmp_path


def test_a_packed_folder_reads_like_the_folder(folder, packed):
    plain, file = Folder(packed / "images" / "train"), Packed(packed / "train.lmdb")
    assert (file.classes, len(file)) == (plain.classes, len(plain))
    for index in range(len(plain)):
        (a, x), (b, y) = plain.read(index), file.read(index)
        assert (a.tobytes(), x) == (b.tobytes(), y)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_packed_set_are_those_of_the_folder(packed, workers):
    def read(name, root):
        config = DataConfig(name=name, root=str(root), batch_size=4, image_size=16, workers=workers)
        return list(eval_batches(load(config).train, config, batch_size=5))

    for (x, a), (y, b) in zip(read("folder", packed / "images"), read("lmdb", packed), strict=True):
        assert a.tolist() == b.tolist()
        assert x.shape[1:] == (3, 16, 16)
        assert a.tolist() == ((x[:, 0].mean((1, 2)) * 0.229 + 0.485) * 255 / 80).round().int().tolist()
        assert y.shape == x.shape
    assert torch.equal(torch.cat([y for _, y in read("lmdb", packed)]), torch.arange(3).repeat_interleave(8))


def test_a_pack_cut_short_leaves_nothing(folder, tmp_path):
    found = Folder(folder() / "train")
    with pytest.raises(FileNotFoundError):
        pack([*found.paths, "gone.png"], [0] * 25, found.classes, tmp_path / "x.lmdb")
    assert not list(tmp_path.glob("*x.lmdb*"))


def test_files_that_are_no_packs(tmp_path):
    with pytest.raises(DataError, match="no such file; make it"):
        Packed(tmp_path / "no.lmdb")
    (tmp_path / "text.lmdb").write_text("hello" * 10_000)
    with pytest.raises(DataError, match="cannot be read as LMDB"):
        Packed(tmp_path / "text.lmdb")
    lmdb.open(str(tmp_path / "other.lmdb"), subdir=False).close()
    with pytest.raises(DataError, match="was not written by `anywidth pack`"):
        Packed(tmp_path / "other.lmdb")
