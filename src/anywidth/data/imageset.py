"""A part of a source as a map-style data set: transformed images, reproducible noise, counted failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from anywidth.data.sources import ImageSource, Tensors
from anywidth.data.transforms import Transform
from anywidth.errors import DataError
from anywidth.seeds import seeded

_TRIES = 100


@dataclass(frozen=True)
class Failure:
    """Travels from a reading process to the training process in place of an image."""

    message: str


class Unreadable:
    """Which images of a source could not be read, known to all reading processes.

    Args:
        size: images of the source.
        limit: how many may be passed over.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.flags = torch.zeros(size, dtype=torch.uint8).share_memory_()
        self.limit = limit

    def add_(self, index: int, source: ImageSource, error: Exception) -> None:
        """Count an image, once.

        Raises:
            DataError: there are more than the limit.
        """
        self.flags[index] = 1
        if self.count > self.limit:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{source.place(index)}: cannot be read ({reason}), and {self.count - 1} before it; repair or remove "
                f"these images, or raise data.corrupt_limit (now {self.limit})"
            )

    @property
    def count(self) -> int:
        return int(self.flags.sum())


class ImageSet(Dataset[Any]):
    """Images of a source, as the network sees them.

    Args:
        source: the images.
        indices: (n,) which of them.
        transform: decoded image -> (C, H, W); None for images in memory that are taken as they are, a batch at once.
        unreadable: the count of failures of this source.
        replace: put the next readable image in the place of an unreadable one, so that training batches stay full;
            otherwise it is left out.
    """

    def __init__(
        self,
        source: ImageSource,
        indices: Tensor,
        transform: Transform | None,
        unreadable: Unreadable,
        *,
        replace: bool,
    ) -> None:
        self.source, self.indices, self.transform = source, indices, transform
        self.unreadable, self.replace = unreadable, replace

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: list[tuple[int, int] | int]) -> Any:
        """The items of a batch; (N, C, H, W) and (N,) at once where nothing is done to them."""
        # torch calls this instead of `__getitem__` for a whole batch. One index replaces N reads and a stack.
        if self.transform is None and isinstance(self.source, Tensors):
            source_indices = self.indices[[key[0] if isinstance(key, tuple) else key for key in keys]]
            return self.source.images[source_indices], self.source.labels[source_indices]
        return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, int] | Failure | None:
        """(image, class) at a position; a key (position, seed) fixes the noise too."""
        position, seed = key if isinstance(key, tuple) else (key, None)
        with seeded(seed):
            try:
                return self._item(position)
            except DataError as error:
                return Failure(str(error))

    def _item(self, position: int) -> tuple[Tensor, int] | None:
        # position 7 unreadable -> 8, 9, ... of the same order: a function of the position alone, so every process and
        # every restart takes the same substitute.
        for shift in range(_TRIES if self.replace else 1):
            index = int(self.indices[(position + shift) % len(self.indices)])
            try:
                image, label = self.source.read(index)
            except DataError:  # not this image: the file is damaged or not to be trusted
                raise
            except Exception as error:  # decoders raise many types for a damaged image
                self.unreadable.add_(index, self.source, error)
                continue
            return (image if self.transform is None else self.transform(image)), label
        return None


def collate(items: Any) -> tuple[Tensor, Tensor] | Failure:
    """(N, C, H, W) and (N,); items left out are None."""
    if isinstance(items, tuple):
        return items
    for item in items:
        if isinstance(item, Failure):
            return item
    kept = [item for item in items if item is not None]
    if not kept:
        return torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    return torch.stack([image for image, _ in kept]), torch.tensor([label for _, label in kept])
