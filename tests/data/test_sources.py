import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision import datasets

from anywidth.data.sources import Folder, cifar, digits
from anywidth.errors import DataError


def as_rows(part) -> set[bytes]:
    return {x.numpy().tobytes() + bytes([y]) for x, y in zip(part.images, part.labels.tolist(), strict=True)}


def test_digits_together_are_all_digits_scaled():
    train, test = digits()
    images, labels = torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels])
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    raw = load_digits()
    pixels = ((images.squeeze(1) + 1) * 8).numpy()
    assert sorted(map(tuple, pixels.reshape(-1, 64))) == sorted(map(tuple, raw.data.astype(np.float32)))
    assert labels.bincount().tolist() == np.bincount(raw.target).tolist()


def test_every_digit_keeps_its_label():
    raw = load_digits()
    known = {row.tobytes(): y for row, y in zip(raw.images.astype(np.float32), raw.target, strict=True)}
    for part in digits(seed=3):
        for index in range(len(part)):
            image, label = part.read(index)
            assert known[((image[0] + 1) * 8).numpy().tobytes()] == label


def test_the_split_of_digits_is_disjoint_sized_and_fixed_by_the_seed():
    (train, test), (_, again), (_, other) = digits(seed=1), digits(seed=1), digits(seed=2)
    assert (len(train), len(test)) == (1438, 359)
    assert torch.equal(test.images, again.images)
    assert not torch.equal(test.images, other.images)
    assert not as_rows(train) & as_rows(test)


@pytest.mark.parametrize("fraction", [1e-6, 1 - 1e-6])
def test_an_empty_part_of_digits_is_refused(fraction):
    with pytest.raises(DataError, match="leaves one part of the 1797 images empty"):
        digits(test_fraction=fraction)


def test_a_folder_is_read_as_it_lies(folder):
    found = Folder(folder() / "train")
    assert (found.classes, len(found)) == (("ant", "bee", "cat"), 24)
    for index in range(24):
        image, label = found.read(index)
        red, green, _ = image.getpixel((0, 0))
        assert (red, green) == (80 * label, index)


def test_folders_that_cannot_be(folder, tmp_path):
    with pytest.raises(DataError, match="no such folder of images"):
        Folder(tmp_path / "nothing")
    root = folder() / "train"
    (root / "dog").mkdir()
    with pytest.raises(DataError, match="dog: the class has no images"):
        Folder(root)
    (root / "dog" / "notes.txt").write_text("woof")
    with pytest.raises(DataError, match="Found no valid file for the classes dog"):
        Folder(root)


def test_cifar_is_what_its_files_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3072), dtype=np.uint8)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name, data in zip(names, pixels, strict=True):
        (base / name).write_bytes(pickle.dumps({"data": data, "labels": list(range(10))}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}))
    train, test = cifar("cifar10", tmp_path, train=True), cifar("cifar10", tmp_path, train=False)
    assert (len(train), len(test), len(train.classes)) == (50, 10, 10)
    image, label = train.read(13)
    assert label == 3
    assert np.array_equal(image.numpy().ravel(), pixels[1, 3])


def test_cifar_that_is_not_there(tmp_path):
    with pytest.raises(
        DataError, match="cifar10 is not here, or is damaged: expected the folder cifar-10-batches-py"
    ):
        cifar("cifar10", tmp_path, train=True)
