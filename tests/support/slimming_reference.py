"""Networks as the public code of Network Slimming has them, written from a description of it, to compare with.

The names of their tensors are those of its files; a selection layer follows the norms that read a stream, and pruning
keeps these norms as wide as the stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VGG = {
    11: "64 M 128 M 256 256 M 512 512 M 512 512",
    13: "64 64 M 128 128 M 256 256 M 512 512 M 512 512",
    16: "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512",
    19: "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512",
}


class Select(nn.Module):
    """The channels whose entry is not zero, in their order."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.indexes = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.indexes != 0]


class Vgg(nn.Module):
    def __init__(self, depth: int = 19, classes: int = 10, cfg: Sequence | None = None) -> None:
        super().__init__()
        self.cfg = list(cfg or [w if w == "M" else int(w) for w in VGG[depth].split()])
        layers: list[nn.Module] = []
        before = 3
        for entry in self.cfg:
            if entry == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [
                    nn.Conv2d(before, entry, 3, padding=1, bias=False),
                    nn.BatchNorm2d(entry),
                    nn.ReLU(),
                ]
                before = entry
        self.feature = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.avg_pool2d(self.feature(x), 2).flatten(1))


class Bottleneck(nn.Module):
    def __init__(
        self, stream: int, cfg: Sequence[int], planes: int, stride: int, project: bool, select: bool
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(stream)
        if select:
            self.select = Select(stream)
        self.conv1 = nn.Conv2d(cfg[0], cfg[1], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cfg[1])
        self.conv2 = nn.Conv2d(cfg[1], cfg[2], 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cfg[2])
        self.conv3 = nn.Conv2d(cfg[2], 4 * planes, 1, bias=False)
        if project:
            self.downsample = nn.Sequential(nn.Conv2d(stream, 4 * planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x)
        y = self.conv1(F.relu(self.select(y) if hasattr(self, "select") else y))
        y = self.conv3(F.relu(self.bn3(self.conv2(F.relu(self.bn2(y))))))
        return y + (self.downsample(x) if hasattr(self, "downsample") else x)


class Resnet(nn.Module):
    def __init__(
        self, depth: int = 164, classes: int = 10, cfg: Sequence[int] | None = None, select: bool = True
    ) -> None:
        super().__init__()
        n = (depth - 2) // 9
        if cfg is None:
            cfg = [16, 16, 16, *[64, 16, 16] * (n - 1), 64, 32, 32, *[128, 32, 32] * (n - 1)]
            cfg += [128, 64, 64, *[256, 64, 64] * (n - 1), 256]
        self.cfg = list(cfg)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        stream = 16
        for stage, planes in enumerate((16, 32, 64)):
            blocks = []
            for b in range(n):
                at = 3 * (n * stage + b)
                stride = 2 if stage and not b else 1
                blocks.append(Bottleneck(stream, cfg[at : at + 3], planes, stride, b == 0, select))
                stream = 4 * planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(stream)
        if select:
            self.select = Select(stream)
        self.fc = nn.Linear(cfg[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        x = F.relu(self.select(x) if hasattr(self, "select") else x)
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


class Dense(nn.Module):
    """A layer of a dense block, or a transition."""

    def __init__(self, stream: int, kept: int, out: int, kernel: int, select: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(stream)
        if select:
            self.select = Select(stream)
        self.conv1 = nn.Conv2d(kept, out, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x)
        y = self.conv1(F.relu(self.select(y) if hasattr(self, "select") else y))
        return F.avg_pool2d(y, 2) if self.conv1.kernel_size == (1, 1) else torch.cat((x, y), 1)


class Densenet(nn.Module):
    def __init__(
        self,
        depth: int = 40,
        classes: int = 10,
        cfg: Sequence[int] | None = None,
        select: bool = True,
        stem: int = 24,
        growth: int = 12,
    ) -> None:
        super().__init__()
        n = (depth - 4) // 3
        full, stream = [], stem
        for _ in range(3):
            full += [stream + growth * i for i in range(n + 1)]
            stream += growth * n
        self.cfg = list(cfg or full)
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        for block in range(3):
            at = block * (n + 1)
            layers = [Dense(full[at + i], self.cfg[at + i], growth, 3, select) for i in range(n)]
            self.add_module(f"dense{block + 1}", nn.Sequential(*layers))
            if block < 2:
                trans = Dense(full[at + n], self.cfg[at + n], full[at + n], 1, select)
                self.add_module(f"trans{block + 1}", trans)
        self.bn = nn.BatchNorm2d(full[-1])
        if select:
            self.select = Select(full[-1])
        self.fc = nn.Linear(self.cfg[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.trans2(self.dense2(self.trans1(self.dense1(self.conv1(x)))))
        x = self.bn(self.dense3(x))
        x = F.relu(self.select(x) if hasattr(self, "select") else x)
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


class VggA(nn.Module):
    """For ImageNet; `pixels` // 32 is the side of the last map."""

    def __init__(self, classes: int = 1000, pixels: int = 224, convs: Sequence[int] = (64, 128, 256, 256, 512, 512, 512, 512),
                 hidden: tuple[int, int] = (4096, 4096)) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for number, out in enumerate(convs):
            layers += [nn.Conv2d(before, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            layers += [nn.MaxPool2d(2, 2)] if number in (0, 1, 3, 5, 7) else []
            before = out
        self.features = nn.Sequential(*layers)
        a, b = hidden
        self.classifier = nn.Sequential(
            nn.Linear(before * (pixels // 32) ** 2, a), nn.BatchNorm1d(a), nn.ReLU(),
            nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU(), nn.Linear(b, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def norms(net: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}


def threshold(net: nn.Module, share: float) -> tuple[int, float, dict[str, Tensor]]:
    """Position and value of the threshold over all scales, and which channels of each norm are above it."""
    scales = torch.cat([m.weight.detach().abs() for m in norms(net).values()]).sort().values
    position = int(len(scales) * share)
    return (
        position,
        float(scales[position]),
        {n: m.weight.detach().abs() > scales[position] for n, m in norms(net).items()},
    )


@torch.no_grad()
def mask_(net: nn.Module, masks: dict[str, Tensor]) -> None:
    """Scales and shifts of pruned channels become zero."""
    for name, norm in norms(net).items():
        norm.weight.mul_(masks[name])
        norm.bias.mul_(masks[name])


def counts(net: nn.Module, masks: dict[str, Tensor]) -> list:
    """The list that a pruned file has: kept channels of every norm, with the pools of VGG."""
    kept = iter(int(m.sum()) for m in masks.values())
    return ["M" if entry == "M" else next(kept) for entry in net.cfg]


@torch.no_grad()
def compact(net: nn.Module, masks: dict[str, Tensor], **options: int) -> nn.Module:
    """A masked network without its pruned channels; counters of norms stay 0."""
    small = type(net)(cfg=counts(net, masks), **options)
    full, state = net.state_dict(), small.state_dict()
    before: Tensor | None = None  # what the next convolution of the trunk reads
    for name in state:
        path, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            continue
        if path in masks:
            parent, _, last = path.rpartition(".")
            selected = last in ("bn", "bn1") and f"{parent}.select.indexes".lstrip(".") in state
            state[name].copy_(full[name] if selected else full[name][masks[path]])
            before = masks[path]
        elif part == "indexes":
            state[name].copy_(before)
        elif "downsample" in name or name == "conv1.weight" or full[name].ndim == 1:
            state[name].copy_(full[name])
        else:
            tensor = full[name] if before is None else full[name][:, before]
            after = next((m for n, m in masks.items() if _makes(path, n)), None)
            state[name].copy_(tensor if after is None else tensor[after])
    small.load_state_dict(state)
    return small


def _makes(conv: str, norm: str) -> bool:
    """Whether a convolution's outputs are pruned with this norm."""
    parent, _, last = conv.rpartition(".")
    if parent == "feature":
        return norm == f"feature.{int(last) + 1}"
    return "layer" in parent and (last, norm) in (("conv1", f"{parent}.bn2"), ("conv2", f"{parent}.bn3"))
