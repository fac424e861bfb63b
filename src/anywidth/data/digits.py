"""The handwritten digits that come with scikit-learn."""

import torch
from torch.utils.data import TensorDataset

from anywidth.data.loading import Splits


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> Splits:
    """The 1797 handwritten digits of scikit-learn as images (1, 8, 8) in [-1, 1] and labels 0..9.

    Args:
        test_fraction: part of the images held out for testing, strictly between 0 and 1.
        seed: fixes the random split; the order within each part is random as well.

    Raises:
        ValueError: if one of the parts would be empty.
    """
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1  # pixels are 0..16
    labels = torch.as_tensor(classes, dtype=torch.int64)
    held_out = round(len(images) * test_fraction)
    if not 0 < held_out < len(images):
        raise ValueError(
            f"digits: test_fraction {test_fraction} leaves one part of the {len(images)} images empty; "
            "expected a number strictly between 0 and 1"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    test, train = order[:held_out], order[held_out:]
    return Splits(
        train=TensorDataset(images[train], labels[train]), test=TensorDataset(images[test], labels[test])
    )
