"""Splits and loaders whose order is fixed by an explicit generator."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class Splits(NamedTuple):
    """The two parts of a data set; items are (image, label)."""

    train: Dataset[tuple[Tensor, ...]]
    test: Dataset[tuple[Tensor, ...]]


def loader(
    dataset: Dataset[tuple[Tensor, ...]], *, batch_size: int, generator: torch.Generator | None = None
) -> DataLoader[tuple[Tensor, ...]]:
    """A loader over `dataset`.

    Args:
        dataset: a map-style data set.
        batch_size: images in a batch.
        generator: shuffles the images; then the last, incomplete batch is left out, so that batch norm sees
            batches of one size. Without it: every image once, in order.

    Raises:
        ValueError: if a shuffled loader would have no complete batch.
    """
    size = len(dataset)  # pyright: ignore[reportArgumentType]
    if generator is not None and size < batch_size:
        raise ValueError(
            f"data: {size} training images do not fill one batch of {batch_size}; lower the batch size"
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=generator is not None,
        generator=generator,
        drop_last=generator is not None,
    )
