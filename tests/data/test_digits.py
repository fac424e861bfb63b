import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from anywidth.data import digits


def as_rows(dataset) -> set[bytes]:
    images, labels = dataset.tensors
    return {x.numpy().tobytes() + bytes([y]) for x, y in zip(images, labels.tolist(), strict=True)}


def test_the_parts_together_are_all_digits_scaled():
    splits = digits()
    images = torch.cat([splits.train.tensors[0], splits.test.tensors[0]])
    labels = torch.cat([splits.train.tensors[1], splits.test.tensors[1]])
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    raw = load_digits()
    pixels = ((images.squeeze(1) + 1) * 8).numpy()
    assert sorted(map(tuple, pixels.reshape(-1, 64))) == sorted(map(tuple, raw.data.astype(np.float32)))
    assert labels.bincount().tolist() == np.bincount(raw.target).tolist()


def test_every_image_keeps_its_label():
    raw = load_digits()
    rows = zip(raw.images.astype(np.float32), raw.target, strict=True)
    known = {row.tobytes(): label for row, label in rows}
    for dataset in digits(seed=3):
        for image, label in dataset:
            assert known[((image[0] + 1) * 8).numpy().tobytes()] == label


def test_split_is_disjoint_sized_and_fixed_by_the_seed():
    first, again, other = digits(seed=1), digits(seed=1), digits(seed=2)
    assert (len(first.train), len(first.test)) == (1438, 359)
    assert torch.equal(first.test.tensors[0], again.test.tensors[0])
    assert not torch.equal(first.test.tensors[0], other.test.tensors[0])
    assert not as_rows(first.train) & as_rows(first.test)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1e-6])
def test_an_empty_part_is_refused(fraction):
    with pytest.raises(ValueError, match="leaves one part of the 1797 images empty"):
        digits(test_fraction=fraction)
