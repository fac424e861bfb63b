import pytest
import torch

from anywidth.data import load
from anywidth.errors import DataError
from image_folders import config_of


def test_held_out_images_are_apart_and_fixed_by_the_data_seed(folder):
    root = folder()
    splits, again, other = (load(config_of(root, held_out=6, seed=s)) for s in (1, 1, 2))
    assert (len(splits.train), len(splits.held_out)) == (18, 6)
    assert not set(splits.train.indices.tolist()) & set(splits.held_out.indices.tolist())
    assert torch.equal(splits.held_out.indices, again.held_out.indices)
    assert not torch.equal(splits.held_out.indices, other.held_out.indices)
    plain = [splits.held_out[i][0] for i in range(6)]
    assert all(torch.equal(a, splits.held_out[i][0]) for i, a in enumerate(plain))  # no noise
    assert load(config_of(root)).held_out is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"root": "/nowhere/at/all"}, "no such folder; set data.root"),
        ({"held_out": 24}, "held_out = 24: leaves none of the 24 training images"),
        ({"classes": 4}, r"3 classes \(ant, bee, cat, ...\), expected 4"),
        ({"name": "imagenet"}, "expected 1000"),
        ({"name": "lmdb"}, "train.lmdb: no such file"),
        ({"name": "webdataset"}, r"no shards train\*.tar here"),
    ],
)
def test_data_that_cannot_be(folder, values, message):
    with pytest.raises(DataError, match=message):
        load(config_of(folder(), **values))


def test_test_images_of_other_classes_are_refused(folder):
    root = folder()
    (root / "val" / "cat").rename(root / "val" / "cow")
    with pytest.raises(
        DataError, match=r"3 classes for training and 3 for testing are not the same \(cat, cow\)"
    ):
        load(config_of(root))


def test_the_folder_of_test_images_may_be_called_test(folder):
    assert len(load(config_of(folder(test="test"))).test) == 9
