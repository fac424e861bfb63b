"""CIFAR-10 in memory, for the accuracy benchmarks: whole data set as bytes, augmented by the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anywidth.seeds import generator

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
HELD_OUT = 5000


@dataclass(frozen=True, kw_only=True)
class Images:
    """pixels: (N, 3, H, W) bytes; labels: (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: Tensor) -> Images:
        return Images(pixels=self.pixels[chosen], labels=self.labels[chosen])


def read(root: Path, split: str, size: int, cache: Path) -> Images:
    """The images of a split, scaled to `size` pixels with a box filter; read once, then from `cache`."""
    kept = cache / f"cifar10-{split}-{size}.pt"
    if not kept.exists():
        folders = sorted(path for path in (root / split).iterdir() if path.is_dir())
        pixels, labels = [], []
        for label, folder in enumerate(folders):
            for path in sorted(folder.glob("*.jpg")):
                with Image.open(path) as image:
                    small = image.convert("RGB").resize((size, size), Image.Resampling.BOX)
                pixels.append(torch.from_numpy(np.array(small)).permute(2, 0, 1))
                labels.append(label)
        cache.mkdir(parents=True, exist_ok=True)
        torch.save({"pixels": torch.stack(pixels), "labels": torch.tensor(labels)}, kept)
    return Images(**torch.load(kept, weights_only=True))


def splits(root: Path, size: int, cache: Path) -> dict[str, Images]:
    """ "train" without its last part, that part as "held_out", and "test"; the cut is the same for every seed."""
    train = read(root, "train", size, cache)
    order = torch.randperm(len(train), generator=generator(0, 99))
    return {
        "train": train.part(order[HELD_OUT:]),
        "held_out": train.part(order[:HELD_OUT]),
        "test": read(root, "test", size, cache),
    }


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    return (pixels.float() - mean) / std


class Training:
    """Shuffled batches of an epoch: crops of padded images and flips, a function of (seed, epoch, step)."""

    def __init__(self, images: Images, batch: int, seed: int, epoch: int, first: int = 0) -> None:
        self.images, self.batch, self.seed, self.epoch, self.first = images, batch, seed, epoch, first
        self.steps = len(images) // batch

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=generator(self.seed, 7, self.epoch))
        for step in range(self.first, self.steps):
            chosen = self.images.part(order[step * self.batch : (step + 1) * self.batch])
            yield (
                normalised(_augmented(chosen.pixels, generator(self.seed, 8, self.epoch, step))),
                chosen.labels,
            )


class Plain:
    """Every image once, in order, as it is."""

    def __init__(self, images: Images, batch: int = 500) -> None:
        self.images, self.batch = images, batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.images), self.batch):
            part = slice(start, start + self.batch)
            yield normalised(self.images.pixels[part]), self.images.labels[part]


def _augmented(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Random crops after padding by an eighth of the size with zeros, random flips."""
    n, _, size, _ = pixels.shape
    pad = size // 8
    padded = torch.nn.functional.pad(pixels, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=random)
    span = torch.arange(size)
    rows, columns = top + span, left + span
    flip = torch.rand(n, 1, generator=random) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
