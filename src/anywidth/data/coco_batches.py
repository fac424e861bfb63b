"""Batches of images with boxes: wide images with wide ones, tall with tall, so that little is padded.

The batches of an epoch are a function of the seed and the epoch, whatever the number of processes; each process takes its
share of every batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anywidth.data.coco import CocoSet, Item
from anywidth.data.coco_config import CocoConfig
from anywidth.data.coco_noise import Target
from anywidth.data.imageset import Failure
from anywidth.data.loading import Batches
from anywidth.errors import DataError
from anywidth.seeds import generator

_ORDER, _NOISE = 14, 15


def collate_targets(items: list[Item | Failure]) -> tuple[list[Tensor], list[Target]] | Failure:
    """Images and targets as lists, as torchvision's detectors take them."""
    images, targets = [], []
    for item in items:
        if isinstance(item, Failure):
            return item
        images.append(item[0])
        targets.append(item[1])
    return images, targets


def grouped(landscape: Tensor, batch: int, order: torch.Generator) -> Tensor:
    """(steps, batch) positions: batches of one aspect, in random order, each position once.

    What is left of both aspects fills mixed batches, tall images first; fewer than `batch` positions, drawn at random,
    are left out.

    Args:
        landscape: (n,) bool, whether an image is wider than it is high.
        batch: images of a batch.
        order: draws.
    """
    # batch 4, 7 tall and 6 wide images: one full batch of each; 3 + 2 remain, 4 of which make a mixed batch and 1 is
    # left out: (3, 4).
    shuffled = torch.randperm(len(landscape), generator=order)
    batches, remainders = [], []
    for aspect in (False, True):
        positions = shuffled[landscape[shuffled] == aspect]
        covered = len(positions) // batch * batch
        batches.append(positions[:covered].view(-1, batch))
        remainders.append(positions[covered:])
    mixed = torch.cat(remainders)
    mixed = mixed[torch.randperm(len(mixed), generator=order)][: len(mixed) // batch * batch].view(-1, batch)
    mixed = mixed.gather(1, landscape[mixed].to(torch.int8).argsort(dim=1, stable=True))
    together = torch.cat([*batches, mixed])
    return together[torch.randperm(len(together), generator=order)]


def coco_train_batches(
    images: CocoSet,
    config: CocoConfig,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    micro: int = 1,
    first: int = 0,
) -> Batches:
    """One process's share of the images of an epoch, in micro-batches (images, targets), two lists.

    Args:
        images: for training.
        config: batch size, reading processes.
        seed: of the order and the noise.
        epoch: each has its own order.
        rank, world: number of this process, and of all.
        micro: micro-batches that a process's share of a batch is cut into.
        first: batches of the epoch that are left out at its beginning; their images are not read.

    Raises:
        DataError: a batch that cannot be shared evenly, or is not filled.
    """
    _check(len(images), config.batch_size, world, micro)
    landscape = images.sizes[:, 1] > images.sizes[:, 0]
    # Functions of the seed and the epoch alone: all processes compute the same order and take their columns of it.
    order = grouped(landscape, config.batch_size, generator(seed, _ORDER, epoch))
    noise = torch.randint(2**62, (len(images),), generator=generator(seed, _NOISE, epoch))
    # order (steps, batch) -> (steps, world, micro, share of a micro-batch) -> [first:, rank] -> (steps * micro, share).
    share = order.view(len(order), world, micro, -1)[first:, rank].flatten(0, 1)
    keys = [list(zip(row, noise[row].tolist(), strict=True)) for row in share.tolist()]
    return Batches(images, keys, workers=config.workers, collate=collate_targets)


def coco_eval_batches(images: CocoSet, config: CocoConfig, *, rank: int = 0, world: int = 1) -> Batches:
    """One process's share of the images, each once, in order: (images, targets), two lists."""
    positions, size = range(rank, len(images), world), config.eval_batch_size
    keys = [list(positions[start : start + size]) for start in range(0, len(positions), size)]
    return Batches(images, keys, workers=config.workers, collate=collate_targets)


def _check(images: int, batch: int, world: int, micro: int) -> None:
    if batch % (world * micro):
        raise DataError(
            f"data.batch_size = {batch}: cannot be shared evenly by {world} processes with {micro} micro-batches each "
            f"(train.accumulate); use a multiple of {world * micro}"
        )
    if images < batch:
        raise DataError(
            f"data.batch_size = {batch}: {images} training images do not fill one batch of {batch}; lower it"
        )
