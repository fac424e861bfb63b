"""Batches whose order and noise are a function of the seed, the epoch and the image, and of nothing else.

So the same images come in the same batches with the same crops whether one process reads them or many, with any
number of reading processes, from the start or after an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anywidth.data.config import DataConfig
from anywidth.data.imageset import Failure, ImageSet, collate
from anywidth.data.splits import Splits
from anywidth.errors import DataError
from anywidth.seeds import generator, seeded

_ORDER, _NOISE, _MIX, _CALIBRATION = 11, 12, 13, 2**31
_CALIBRATION_BATCH = 256
Key = tuple[int, int] | int


class Batches:
    """Batches of a data set, as named; `len` is their number, and they can be gone through again.

    Args:
        images: the data set.
        keys: of the images of each batch.
        workers: reading processes.
        mix: mixes a batch, given its number in `keys`.
        collate: makes a batch of its items, or gives the failure of one.
    """

    def __init__(
        self,
        images: Dataset[Any],
        keys: Sequence[Sequence[Key]],
        *,
        workers: int = 0,
        mix: Mix | None = None,
        collate: Callable[[Any], Any] = collate,
    ) -> None:
        self.images, self.keys, self.workers, self.mix = images, keys, workers, mix
        self.collate = collate

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        loader = DataLoader(
            self.images,
            batch_sampler=self.keys,  # pyright: ignore[reportArgumentType]
            collate_fn=self.collate,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            # The loader draws a seed for its workers; not from the training's generator.
            generator=torch.Generator().manual_seed(0),
        )
        try:
            for batch_index, batch in enumerate(loader):
                if isinstance(batch, Failure):
                    raise DataError(batch.message)
                x, y = batch
                if len(y) == 0:  # no image of it could be read
                    continue
                yield (x, y) if self.mix is None else self.mix(x, y, batch_index)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"data: a process that reads images died ({str(error).splitlines()[0]}); memory may be short: "
                f"lower data.workers (now {self.workers}) or data.batch_size, then start the same command again"
            ) from error


class Mix:
    """timm's mixup and cutmix, within each batch: labels become (N, classes) probabilities.

    Args:
        mixup, cutmix: alphas.
        classes: how many.
        seeds: one for each batch.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, seeds: Tensor) -> None:
        from timm.data.mixup import Mixup

        self.seeds = seeds
        self.mixed = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=classes)

    def __call__(self, x: Tensor, y: Tensor, batch_index: int) -> tuple[Tensor, Tensor]:
        with seeded(int(self.seeds[batch_index])):
            return self.mixed(x, y)


def _check(images: int, config: DataConfig, world: int, micro: int) -> None:
    batch = config.batch_size
    if world > batch:
        raise DataError(
            f"data.batch_size = {batch}: {world} processes cannot share it; start at most {batch}"
        )
    if batch % (world * micro):
        raise DataError(
            f"data.batch_size = {batch}: cannot be shared evenly by {world} processes with {micro} micro-batches "
            f"each (train.accumulate); use a multiple of {world * micro}"
        )
    if images < batch:
        raise DataError(
            f"data.batch_size = {batch}: {images} training images do not fill one batch of {batch}; lower it"
        )
    if (config.augment.mixup or config.augment.cutmix) and batch // (world * micro) % 2:
        raise DataError(
            f"data.augment: mixup and cutmix pair the images of each process's part of a batch, now "
            f"{batch // (world * micro)} images; use a data.batch_size that makes it even"
        )


def _order(images: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Positions, shuffled, and the seed of each position's noise."""
    # The seed belongs to the image and not to its place in the epoch: `noise[order]`.
    order = torch.randperm(images, generator=generator(seed, _ORDER, epoch))
    noise = torch.randint(2**62, (images,), generator=generator(seed, _NOISE, epoch))
    return order, noise[order]


def train_batches(
    splits: Splits,
    config: DataConfig,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    micro: int = 1,
    first: int = 0,
) -> Batches:
    """One process's share of the training images of an epoch, in micro-batches.

    Every batch of `config.batch_size` images is dealt out in order; the last, incomplete one is left out.

    Args:
        splits: from `load`.
        config: batch size, reading processes, mixing.
        seed: of the order and the noise.
        epoch: each has its own order.
        rank, world: number of this process, and of all.
        micro: micro-batches that a process's share of a batch is cut into.
        first: batches of the epoch that are left out at its beginning.

    Raises:
        DataError: a batch that cannot be shared evenly, or is not filled.
    """
    # 10 images, batch 4, two processes: 2 steps, order[:8] -> (2, 2, 1, 2). Rank 1 reads order[2:4], then order[6:8].
    images = splits.train
    _check(len(images), config, world, micro)
    order, noise = _order(len(images), seed, epoch)
    steps = len(images) // config.batch_size
    shape = (steps, world, micro, config.batch_size // (world * micro))
    order, noise = (
        t[: steps * config.batch_size].view(shape)[first:, rank].flatten(0, 1) for t in (order, noise)
    )
    keys = [list(zip(a, b, strict=True)) for a, b in zip(order.tolist(), noise.tolist(), strict=True)]
    return Batches(
        images,
        keys,
        workers=config.workers,
        mix=_mix(splits, config, seed, epoch, rank, first * micro, len(keys)),
    )


def _mix(
    splits: Splits, config: DataConfig, seed: int, epoch: int, rank: int, skipped: int, count: int
) -> Mix | None:
    augment = config.augment
    if not augment.mixup and not augment.cutmix:
        return None
    # Drawn from the start of the epoch and then cut, so that a resumed epoch mixes its batches as before.
    seeds = torch.randint(2**62, (skipped + count,), generator=generator(seed, _MIX, epoch, rank))[skipped:]
    return Mix(augment.mixup, augment.cutmix, len(splits.classes), seeds)


def calibration_batches(
    splits: Splits, config: DataConfig, *, seed: int, rank: int = 0, world: int = 1
) -> Batches:
    """Training images in an order of their own; batch k goes to process k mod `world`.

    Batches have the size of training batches, but not more than 256 images; they are the same for any number of
    processes.
    """
    images = splits.train
    size = min(config.batch_size, _CALIBRATION_BATCH, len(images))
    order, noise = _order(len(images), seed, _CALIBRATION)
    count = len(images) // size
    # Batch k goes to process k mod world: with two processes, rank 1 reads batches 1, 3, 5, ... Whole batches, since batch
    # norms see one at a time, and the statistics must not depend on the number of processes.
    keys = [
        list(
            zip(
                order[k * size : (k + 1) * size].tolist(),
                noise[k * size : (k + 1) * size].tolist(),
                strict=True,
            )
        )
        for k in range(rank, count, world)
    ]
    return Batches(images, keys, workers=config.workers)


def eval_batches(
    images: ImageSet, config: DataConfig, *, rank: int = 0, world: int = 1, batch_size: int = 256
) -> Batches:
    """One process's share of the images, each once, in order."""
    # 10 images, two processes, rank 1: 1, 3, 5, 7, 9.
    positions = range(rank, len(images), world)
    keys = [list(positions[start : start + batch_size]) for start in range(0, len(positions), batch_size)]
    return Batches(images, keys, workers=config.workers)
