import json

import pytest
import webdataset
from PIL import Image

from anywidth.data import DataConfig, eval_batches, load
from anywidth.data.shards import Shards
from anywidth.data.sources import Folder
from anywidth.errors import DataError


@pytest.fixture
def shards(folder, tmp_path):
    """Shards as the webdataset library writes them: ten images in each."""
    root = folder()
    for split in ("train", "val"):
        found = Folder(root / split)
        with webdataset.ShardWriter(str(tmp_path / f"{split}-%04d.tar"), maxcount=10, verbose=0) as sink:
            for i in range(len(found)):
                sink.write({"__key__": f"{i:06}", "png": found.read(i)[0], "cls": int(found.labels[i])})
    return tmp_path


def test_shards_read_like_the_folder(shards):
    plain, found = Folder(shards / "images" / "train"), Shards(shards, "train")
    assert [path.name for path in found.shards] == ["train-0000.tar", "train-0001.tar", "train-0002.tar"]
    assert (len(found), len(found.classes)) == (24, 3)
    for index in range(24):
        (a, x), (b, y) = plain.read(index), found.read(index)
        assert (a.tobytes(), x) == (b.tobytes(), y)


def test_the_index_is_kept_and_made_again_when_shards_change(shards):
    Shards(shards, "train")
    kept = shards / "train.index.json"
    saved = json.loads(kept.read_text())
    saved["rows"] = saved["rows"][:5]
    kept.write_text(json.dumps(saved))
    assert len(Shards(shards, "train")) == 5  # it was read
    kept.write_text("{")
    assert len(Shards(shards, "train")) == 24
    (shards / "train-0002.tar").unlink()
    assert len(Shards(shards, "train")) == 20


def test_a_shard_written_again_is_listed_again(tmp_path):
    for labels in ([0, 1, 0], [1, 0, 1]):
        with webdataset.TarWriter(str(tmp_path / "train-0.tar")) as sink:
            for i, label in enumerate(labels):
                sink.write({"__key__": str(i), "png": Image.new("RGB", (4, 4)), "cls": label})
        found = Shards(tmp_path, "train")
        assert [found.read(i)[1] for i in range(3)] == labels


def test_reading_processes_see_the_same_images(shards):
    def read(workers):
        config = DataConfig(
            name="webdataset", root=str(shards), batch_size=4, image_size=16, workers=workers, classes=3
        )
        return [(x.tolist(), y.tolist()) for x, y in eval_batches(load(config).test, config, batch_size=2)]

    assert read(0) == read(2)


def test_shards_that_cannot_be(shards, tmp_path):
    with pytest.raises(DataError, match=r"no shards other\*.tar here"):
        Shards(shards, "other")
    (shards / "train-0001.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match=r"train-0001.tar: cannot be read as a shard"):
        Shards(shards, "train")
    with webdataset.TarWriter(str(shards / "lone-0.tar")) as sink:
        sink.write({"__key__": "a", "png": b"..."})
    with pytest.raises(DataError, match=r"the image a has no class: expected a number in a.cls"):
        Shards(shards, "lone")
