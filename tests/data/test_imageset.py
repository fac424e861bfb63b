import pytest

from anywidth.data import eval_batches, load, train_batches
from anywidth.errors import DataError
from image_folders import config_of


def spoil(root, *names) -> None:
    for name in names:
        (root / name).write_bytes(b"not an image")


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_passed_over_up_to_the_limit_and_counted_once(folder, workers):
    root = folder()
    spoil(root, "train/ant/000.png", "train/cat/003.png", "val/bee/001.png")
    config = config_of(root, corrupt_limit=2, workers=workers)
    splits = load(config)
    for epoch in range(2):
        batches = list(train_batches(splits, config, seed=0, epoch=epoch))
        assert [len(y) for _, y in batches] == [8, 8, 8]  # others stand in
    assert splits.corrupt() == 2
    assert sum(len(y) for _, y in eval_batches(splits.test, config, batch_size=4)) == 8  # left out
    assert splits.corrupt() == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_one_unreadable_image_too_many(folder, workers):
    root = folder()
    spoil(root, *(f"train/ant/00{i}.png" for i in range(3)))
    config = config_of(root, corrupt_limit=2, workers=workers)
    with pytest.raises(
        DataError, match=r"train/ant/00\d.png: cannot be read .*and 2 before it; .*corrupt_limit \(now 2\)"
    ):
        list(train_batches(load(config), config, seed=0, epoch=0))
