"""Where images come from: a source gives an image and its class by number. One class a kind of storage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from anywidth.errors import DataError


class ImageSource(Protocol):
    """A numbered set of images.

    Attributes:
        classes: names of the classes, by their number.
    """

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Any, int]:
        """An image (RGB, of PIL, or a tensor (C, H, W)) and its class; fails in any way for an unreadable one."""
        ...

    def place(self, index: int) -> str:
        """Where the image is, for a message."""
        ...


def decoded(content: bytes) -> Image.Image:
    """The image (RGB) of the content of an image file; fails in any way for a damaged one."""
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB")


class Tensors:
    """Images in memory: (N, C, H, W), bytes or normalised numbers."""

    def __init__(self, images: Tensor, labels: Tensor, classes: Sequence[str], name: str) -> None:
        self.images, self.labels, self.classes, self.name = images, labels, tuple(classes), name

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def place(self, index: int) -> str:
        return f"{self.name}, image {index}"


class Folder:
    """ROOT/CLASS/FILE, as torchvision's ImageFolder.

    Raises:
        DataError: no such folder, no classes, or a class without images.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(
                f"{root}: no such folder of images; expected {root.name}/CLASS/FILE in {root.parent}"
            )
        empty = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not any(path.iterdir())]
        if empty:
            raise DataError(f"{root / empty[0]}: the class has no images; add some, or remove the folder")
        try:
            image_folder = datasets.ImageFolder(str(root))
        except FileNotFoundError as error:
            raise DataError(f"{root}: {' '.join(str(error).split())}") from None
        self.classes = tuple(image_folder.classes)
        self.paths = [path for path, _ in image_folder.samples]
        self.labels = torch.tensor(image_folder.targets)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> tuple[Image.Image, int]:
        with Image.open(self.paths[index]) as image:
            return image.convert("RGB"), int(self.labels[index])

    def place(self, index: int) -> str:
        return self.paths[index]


def cifar(name: str, root: Path, *, train: bool) -> Tensors:
    """CIFAR-10 or CIFAR-100 from the files of their authors, whose checksums torchvision compares.

    Raises:
        DataError: files that are missing or altered.
    """
    dataset_class = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        dataset = dataset_class(str(root), train=train, download=False)
    except RuntimeError:
        raise DataError(
            f"{root}: {name} is not here, or is damaged: expected the folder {dataset_class.base_folder}, or folders of "
            "images train/CLASS/FILE and test/CLASS/FILE"
        ) from None
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
    return Tensors(images, torch.tensor(dataset.targets), dataset.classes, f"{name} in {root}")


def svhn(root: Path, *, train: bool, extra: bool = False) -> Tensors:
    """The cropped Street View House Numbers from the files of their authors, whose checksums torchvision compares.

    Args:
        root: folder of `train_32x32.mat`, `test_32x32.mat` and, for `extra`, `extra_32x32.mat`.
        train: for training, or for testing.
        extra: add the 531,131 easier images to the 73,257 for training.

    Raises:
        DataError: files that are missing or altered.

    Source: Netzer et al., "Reading digits in natural images with unsupervised feature learning"; class 0 is the digit 0.
    """
    names = ["test"] if not train else ["train", "extra"] if extra else ["train"]
    subsets = []
    for name in names:
        try:
            subsets.append(datasets.SVHN(str(root), split=name, download=False))
        except RuntimeError:
            raise DataError(
                f"{root}: svhn is not here, or is damaged: expected the file {datasets.SVHN.split_list[name][1]}, or "
                "folders of images train/CLASS/FILE and test/CLASS/FILE"
            ) from None
    images = torch.cat([torch.from_numpy(subset.data).contiguous() for subset in subsets])
    labels = torch.cat([torch.from_numpy(subset.labels) for subset in subsets])
    return Tensors(images, labels, [str(digit) for digit in range(10)], f"svhn in {root}")


def digits(*, test_fraction: float = 0.2, seed: int = 0) -> tuple[Tensors, Tensors]:
    """The 1797 handwritten digits of scikit-learn as images (1, 8, 8) in [-1, 1]: for training, and for testing.

    Args:
        test_fraction: part of the images set apart for testing.
        seed: fixes the random split; the order within each part is random as well.

    Raises:
        DataError: if one of the parts would be empty.
    """
    from sklearn.datasets import load_digits

    pixels, numbers = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1  # pixels are 0..16
    labels = torch.as_tensor(numbers, dtype=torch.int64)
    # 1797 images and a fraction of 0.2: 359 for testing, 1438 for training.
    tested = round(len(images) * test_fraction)
    if not 0 < tested < len(images):
        raise DataError(
            f"digits: test_fraction {test_fraction} leaves one part of the {len(images)} images empty; "
            "expected a number strictly between 0 and 1"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    names = [str(digit) for digit in range(10)]
    train, test = order[tested:], order[:tested]
    return (
        Tensors(images[train], labels[train], names, "digits"),
        Tensors(images[test], labels[test], names, "digits"),
    )
