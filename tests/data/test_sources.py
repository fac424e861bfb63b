import pickle

import numpy as np
import pytest
import torch
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision import datasets

from anywidth.data import Augment, DataConfig, load
from anywidth.data.sources import Folder, cifar, digits, svhn
from anywidth.data.transforms import SVHN
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


@pytest.fixture
def house_numbers(tmp_path, monkeypatch):
    """A folder like that of SVHN, of a few images: pixels (H, W, 3, N) and labels 1..10 in each file."""
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5: path.endswith(".mat"))
    made = {}
    for number, (name, count) in enumerate((("train", 12), ("test", 7), ("extra", 5))):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.arange(count)[:, None] % 10 + 1
        savemat(tmp_path / f"{name}_32x32.mat", {"X": pixels, "y": labels})
        made[name] = pixels
    return tmp_path, made


def test_svhn_is_what_its_files_hold(house_numbers):
    root, pixels = house_numbers
    train, test = svhn(root, train=True), svhn(root, train=False)
    assert (len(train), len(test), train.classes) == (12, 7, tuple("0123456789"))
    assert train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]  # 10 stands for the digit 0
    for index in range(12):
        assert np.array_equal(train.read(index)[0].permute(1, 2, 0).numpy(), pixels["train"][..., index])
    assert train.images.is_contiguous()
    more = svhn(root, train=True, extra=True)
    assert len(more) == 17
    assert torch.equal(more.images[:12], train.images)
    assert np.array_equal(more.read(16)[0].permute(1, 2, 0).numpy(), pixels["extra"][..., 4])


def test_svhn_as_a_data_set(house_numbers):
    root, pixels = house_numbers
    splits = load(DataConfig(name="svhn", root=str(root), batch_size=4, held_out=3))
    assert (len(splits.train), len(splits.held_out), len(splits.test)) == (9, 3, 7)
    image, label = splits.test[6]
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in SVHN)
    expected = (torch.from_numpy(pixels["test"][..., 6]).permute(2, 0, 1) / 255 - mean) / std
    assert label == 7
    torch.testing.assert_close(image, expected)
    more = load(DataConfig(name="svhn_extra", root=str(root), augment=Augment(preset="cifar")))
    assert (len(more.train), len(more.test)) == (17, 7)
    assert more.train[0][0].shape == (3, 32, 32)


def test_svhn_of_other_labels_is_refused(house_numbers, folder):
    """As a folder of images it has to have ten classes."""
    with pytest.raises(DataError, match=r"3 classes \(ant, bee, cat, \.\.\.\), expected 10"):
        load(DataConfig(name="svhn", root=str(folder())))


@pytest.mark.parametrize("missing", ["train", "test", "extra"])
def test_svhn_that_is_not_there(house_numbers, missing, monkeypatch):
    root, _ = house_numbers
    (root / f"{missing}_32x32.mat").unlink()
    monkeypatch.undo()
    monkeypatch.setattr(
        "torchvision.datasets.svhn.check_integrity", lambda path, md5: f"{missing}_32x32" not in path
    )
    with pytest.raises(
        DataError, match=f"svhn is not here, or is damaged: expected the file {missing}_32x32.mat"
    ):
        load(DataConfig(name="svhn_extra", root=str(root)))


def test_svhn_that_is_damaged(house_numbers, monkeypatch):
    monkeypatch.undo()  # the checksums are compared again
    with pytest.raises(
        DataError, match=r"svhn is not here, or is damaged: expected the file train_32x32\.mat"
    ):
        svhn(house_numbers[0], train=True)
