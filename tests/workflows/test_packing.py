import pytest
from PIL import Image

from anywidth import workflows
from anywidth.data import DataConfig
from anywidth.data import load as load_data
from anywidth.errors import DataError


def test_packed_images_are_read_again(tmp_path, recorder):
    pytest.importorskip("lmdb")
    for part, count in (("train", 4), ("val", 2)):
        for label in ("blue", "red"):
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), label).save(tmp_path / "images" / part / label / f"{index}.png")
    files = workflows.pack(tmp_path / "images", tmp_path / "out", reporter=recorder)
    assert files == {part: tmp_path / "out" / f"{part}.lmdb" for part in ("train", "val")}
    assert recorder.messages[-1] == f"{tmp_path / 'out' / 'val.lmdb'}: 4/4 images"
    splits = load_data(DataConfig(name="lmdb", root=str(tmp_path / "out"), batch_size=2))
    assert (len(splits.train), len(splits.test), len(splits.classes)) == (8, 4, 2)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="no folder train here"):
        workflows.pack(tmp_path, tmp_path / "out")
