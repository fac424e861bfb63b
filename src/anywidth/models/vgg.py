"""VGG networks with batch norm: those for images of 32 pixels, and configuration A for ImageNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anywidth.models.blocks import Classifier, check_places, initialise_

Layers = tuple[int | str, ...]
POOL = "M"

CIFAR_LAYERS: dict[int, Layers] = {
    11: (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    13: (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512),
    16: (64, 64, "M", 128, 128, "M", *(256,) * 3, "M", *(512,) * 3, "M", *(512,) * 3),
    19: (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", *(512,) * 4),
}
A_LAYERS: Layers = (*CIFAR_LAYERS[11], "M")
A_HIDDEN = (4096, 4096)


def _features(layers: Sequence[int | str], *, bias: bool) -> list[nn.Module]:
    """3x3 convolutions with batch norm and ReLU, and 2x2 max-pools."""
    modules: list[nn.Module] = []
    channels = 3
    for entry in layers:
        if isinstance(entry, str):
            modules.append(nn.MaxPool2d(2))
        else:
            conv = nn.Conv2d(channels, entry, 3, padding=1, bias=bias)
            modules += [conv, nn.BatchNorm2d(entry), nn.ReLU(inplace=True)]
            channels = entry
    return modules


def _checked(name: str, layers: Layers, channels: object, extra_paths: Sequence[str] = ()) -> list[int]:
    """The numbers of a list that has the pools of `layers`, or none.

    Args:
        extra_paths: modules of further entries after those of `layers`.

    Raises:
        ValueError: another number of entries, one that is not positive, or pools elsewhere.
    """
    # A convolution is followed by its norm and ReLU, a pool is one module: the convolutions of (64, "M", 128) are
    # features.0 and features.4.
    paths, position = [], 0
    for entry in layers:
        if entry != POOL:
            paths.append(f"features.{position}")
        position += 1 if entry == POOL else 3
    entries = list(channels) if isinstance(channels, list | tuple) else []
    numbers = [c for c in entries if c != POOL]
    checked = check_places(name, numbers if entries else channels, [*paths, *extra_paths])
    pools = [c == POOL for c in (*layers, *extra_paths)]
    # [64, "M", 128, ...] is accepted as it stands in files, but its pools have to be where this depth has them.
    if len(numbers) < len(entries) and [c == POOL for c in entries] != pools:
        raise ValueError(
            f"{name}: the pools of {entries!r} are not at the places of this network; leave the {POOL!r} out, or put them "
            f"as in {list(layers)}"
        )
    return checked


def _with_pools(layers: Layers, numbers: Sequence[int]) -> Layers:
    # (64, "M", 128) and [40, 100] -> (40, "M", 100).
    remaining = iter(numbers)
    return tuple(entry if entry == POOL else next(remaining) for entry in layers)


class CifarVGG(Classifier):
    """VGG of 3x3 convolutions with batch norm, four pools, and one linear layer after the mean over space.

    Keys: `features.N` counts convolutions, norms, activations and pools in order; `classifier`.

    Args:
        depth: 11, 13, 16 or 19.
        num_classes: number of logits.
        channels: of each convolution (8, 10, 13 or 16 numbers), with or without "M" where the pools are.

    Raises:
        ValueError: another depth, or channels that do not fit it.

    Source: Simonyan and Zisserman, arXiv 1409.1556, table 1, as changed for CIFAR in arXiv 1708.06519, section 4.1: no
    hidden linear layers, scale of batch norms 0.5 at the start.
    """

    def __init__(
        self, depth: int = 19, num_classes: int = 10, channels: Sequence[int | str] | None = None
    ) -> None:
        super().__init__()
        if depth not in CIFAR_LAYERS:
            known = ", ".join(map(str, CIFAR_LAYERS))
            raise ValueError(f"CifarVGG: depth {depth} is not one of {known}")
        layers = CIFAR_LAYERS[depth]
        numbers = _checked("CifarVGG", layers, list(layers) if channels is None else channels)
        self.features = nn.Sequential(*_features(_with_pools(layers, numbers), bias=False))
        self.classifier = nn.Linear(numbers[-1], num_classes)
        initialise_(self, scale=0.5)


class VGGA(nn.Module):
    """VGG configuration A for ImageNet, with batch norm after its convolutions and after both hidden linear layers.

    Keys: `features.N` (convolutions with bias, norms, activations, pools), `classifier.0, 1` and `classifier.3, 4`
    (linear, norm), `classifier.6`.

    Args:
        num_classes: number of logits.
        image_size: pixels of the square it is made for; the first linear layer reads a map of `image_size // 32`.
        channels: of the 8 convolutions and the 2 hidden layers, with or without "M" where the pools are.

    Raises:
        ValueError: images under 32 pixels, or channels that do not fit.

    Source: Simonyan and Zisserman, arXiv 1409.1556, table 1, column A, without dropout as in arXiv 1708.06519,
    section 4.1; scale of batch norms 0.5 at the start.
    """

    def __init__(
        self, num_classes: int = 1000, image_size: int = 224, channels: Sequence[int | str] | None = None
    ) -> None:
        super().__init__()
        if image_size < 32:
            raise ValueError(f"VGGA: image_size {image_size}: five pools need at least 32 pixels")
        self.image_size = image_size
        default = [*A_LAYERS, *A_HIDDEN]
        numbers = _checked(
            "VGGA", A_LAYERS, default if channels is None else channels, ("classifier.0", "classifier.3")
        )
        # The classifier reads 512 maps of (image_size / 32)^2 pixels: five pools halve each side.
        *convs, hidden1, hidden2 = numbers
        self.features = nn.Sequential(*_features(_with_pools(A_LAYERS, convs), bias=True))
        self.classifier = nn.Sequential(
            nn.Linear(convs[-1] * (image_size // 32) ** 2, hidden1), nn.BatchNorm1d(hidden1), nn.ReLU(inplace=True),
            nn.Linear(hidden1, hidden2), nn.BatchNorm1d(hidden2), nn.ReLU(inplace=True),
            nn.Linear(hidden2, num_classes),
        )  # fmt: skip
        initialise_(self, scale=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, image_size, image_size) -> logits (N, num_classes)."""
        return self.classifier(torch.flatten(self.features(x), 1))
