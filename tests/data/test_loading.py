import os
import signal

import pytest
import torch

from anywidth.data import Augment, DataConfig, calibration_batches, eval_batches, load, train_batches
from anywidth.errors import DataError
from image_folders import config_of


def read(root, *, seed=0, epoch=0, config=None, **share):
    config = config or config_of(root)
    return list(train_batches(load(config), config, seed=seed, epoch=epoch, **share))


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def test_batches_are_a_function_of_seed_and_epoch(folder):
    root = folder()
    torch.manual_seed(5)
    first = read(root)
    torch.rand(3)
    assert same(first, read(root))
    assert not same(first, read(root, seed=1))
    assert not same(first, read(root, epoch=1))
    assert [x.shape for x, _ in first] == [(8, 3, 8, 8)] * 3
    assert torch.cat([y for _, y in first]).bincount().tolist() == [8, 8, 8]  # every image once


def test_images_are_the_same_with_reading_processes(folder):
    root = folder()
    assert same(read(root), read(root, config=config_of(root, workers=2)))


def test_shares_and_micro_batches_are_parts_of_the_batch(folder):
    root = folder()
    whole = read(root, epoch=3)
    parts = [read(root, epoch=3, rank=rank, world=2, micro=2) for rank in range(2)]
    for k, (x, y) in enumerate(whole):
        shares = [parts[rank][2 * k + m] for rank in range(2) for m in range(2)]
        assert torch.equal(torch.cat([a for a, _ in shares]), x)
        assert torch.equal(torch.cat([b for _, b in shares]), y)


def test_going_on_within_an_epoch(folder):
    root = folder()
    config = config_of(root, augment=Augment(area=0.3, mixup=0.4, cutmix=1.0))
    assert same(read(root, config=config)[2:], read(root, config=config, first=2))
    assert len(train_batches(load(config), config, seed=0, epoch=0, first=1, micro=2)) == 4


def test_mixed_labels_are_probabilities(folder):
    config = config_of(folder(), augment=Augment(mixup=1.0))
    for x, y in train_batches(load(config), config, seed=0, epoch=0):
        assert y.shape == (8, 3)
        torch.testing.assert_close(y.sum(1), torch.ones(8))
        red = (x[:, 0].mean((1, 2)) * 0.229 + 0.485) * 255 / 80  # red is 80 x the class
        torch.testing.assert_close(red, y @ torch.arange(3.0), atol=0.02, rtol=0)


def test_calibration_batches_are_dealt_out(folder):
    config = config_of(folder(), batch_size=4)
    splits = load(config)
    whole = list(calibration_batches(splits, config, seed=0))
    mine = [list(calibration_batches(splits, config, seed=0, rank=rank, world=2)) for rank in range(2)]
    assert len(whole) == 6
    assert same(whole[0::2], mine[0])
    assert same(whole[1::2], mine[1])


def test_test_images_come_once_each_over_all_processes(folder):
    config = config_of(folder(val=5))
    images = load(config).test
    labels = [
        y for rank in range(2) for _, y in eval_batches(images, config, rank=rank, world=2, batch_size=3)
    ]
    assert sorted(torch.cat(labels).tolist()) == [0] * 5 + [1] * 5 + [2] * 5


class _Deadly:
    """Kills the process that reads it."""

    classes = ("a", "b")

    def __len__(self):
        return 8

    def read(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    def place(self, index):
        return "nowhere"


def test_a_reading_process_that_dies_is_reported(folder):
    config = config_of(folder(), workers=1)
    splits = load(config)
    splits.train.source = _Deadly()
    with pytest.raises(DataError, match=r"a process that reads images died .* lower data.workers"):
        list(train_batches(splits, config, seed=0, epoch=0))


@pytest.mark.parametrize(
    ("values", "share", "message"),
    [
        ({"batch_size": 25}, {}, "24 training images do not fill one batch of 25"),
        ({"batch_size": 2}, {"world": 3}, "3 processes cannot share it; start at most 2"),
        ({"batch_size": 8}, {"world": 3}, "cannot be shared evenly by 3 processes with 1 micro"),
        ({"batch_size": 8}, {"micro": 3}, "use a multiple of 3"),
        ({"batch_size": 9, "augment": Augment(mixup=1.0)}, {}, "pair the images .* now 9 images"),
    ],
)
def test_batches_that_cannot_be(folder, values, share, message):
    config = config_of(folder(), **values)
    with pytest.raises(DataError, match=message):
        train_batches(load(config), config, seed=0, epoch=0, **share)


def test_digits_may_be_moved_but_not_recoloured():
    config = DataConfig(name="digits", batch_size=32, augment=Augment(padding=1))
    x, _ = next(iter(train_batches(load(config), config, seed=0, epoch=0)))
    assert x.shape == (32, 1, 8, 8)
    with pytest.raises(DataError, match=r"data.augment.jitter = 0.4: is for colour images"):
        load(DataConfig(name="digits", batch_size=32, augment=Augment(jitter=0.4)))
