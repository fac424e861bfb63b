"""Joslim's networks as functions of a state dict, written from a description of the published code, in its layout.

Nothing of anywidth is used: tables, names, decoding and forward are its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

CIFAR = {"slim_resnet20": 3, "slim_resnet32": 5, "slim_resnet44": 7, "slim_resnet56": 9}
BASIC = {"slim_resnet18": (2, 2, 2, 2), "slim_resnet34": (3, 4, 6, 3)}
DEEP = {
    "slim_resnet50": (3, 4, 6, 3),
    "slim_resnet101": (3, 4, 23, 3),
    "slim_resnet152": (3, 8, 36, 3),
}
# Output, inner channels, stride, squeeze-and-excitation, h-swish.
MOBILE = {
    "slim_mobilenetv2": (
        (24, (96, 144), 2, 0, 0), (32, (144, 192, 192), 2, 0, 0), (64, (192, 384, 384, 384), 2, 0, 0),
        (96, (384, 576, 576), 1, 0, 0), (160, (576, 960, 960), 2, 0, 0), (320, (960,), 1, 0, 0),
    ),
    "slim_mobilenetv3_small": (
        (24, (72, 88), 2, 0, 0), (40, (96, 240, 240), 2, 1, 1), (48, (120, 144), 1, 1, 1), (96, (288, 576, 576), 2, 1, 1),
    ),
    "slim_mobilenetv3_large": (
        (24, (64, 72), 2, 0, 0), (40, (72, 120, 120), 2, 1, 0), (80, (240, 200, 184, 184), 2, 0, 1),
        (112, (480, 672), 1, 1, 1), (160, (672, 960, 960), 2, 1, 1),
    ),
    "slim_mobilenetv3_super": (
        (24, (144,) * 4, 2, 0, 0), (40, (240,) * 4, 2, 1, 0), (80, (480,) * 4, 2, 0, 1),
        (112, (672,) * 4, 1, 1, 1), (160, (960,) * 4, 2, 1, 1),
    ),
}  # fmt: skip
NAMES = (*CIFAR, *BASIC, *DEEP, *MOBILE)


@dataclass(frozen=True)
class Channels:
    """At full width or narrower: stem, first block of a MobileNet (else 0), and (output, inner) of each stage."""

    stem: int
    first: int
    stages: tuple[tuple[int, tuple[int, ...]], ...]


def full(name: str) -> Channels:
    if name in CIFAR:
        return Channels(16, 0, tuple((c, (c,) * CIFAR[name]) for c in (16, 32, 64)))
    if name in BASIC:
        return Channels(
            64, 0, tuple((c, (c,) * n) for c, n in zip((64, 128, 256, 512), BASIC[name], strict=True))
        )
    if name in DEEP:
        return Channels(
            64, 0, tuple((4 * c, (c,) * n) for c, n in zip((64, 128, 256, 512), DEEP[name], strict=True))
        )
    return Channels(32 if name == "slim_mobilenetv2" else 16, 16, tuple((c, e) for c, e, *_ in MOBILE[name]))


def count(name: str) -> int:
    stages = sum(1 + len(inner) for _, inner in full(name).stages)
    return stages + (2 if name in MOBILE else 1 if name in DEEP else 0)


def decoded(name: str, vector: Sequence[float]) -> Channels:
    base, rest = full(name), list(vector)
    stem = int(rest[0] * base.stem)
    first = int(rest[0] * base.first)
    if name in MOBILE or name in DEEP:
        rest = rest[1:]
    stages, before = [], 0
    for out, inner in base.stages:
        before = max(int(rest[0] * out), before)
        kept = tuple(int(w * c) for w, c in zip(rest[1 : 1 + len(inner)], inner, strict=True))
        stages.append((before, kept))
        rest = rest[1 + len(inner) :]
    assert len(rest) == (1 if name in MOBILE else 0)  # the last entry of a MobileNet is never read
    return Channels(stem, first, tuple(stages))


def blocks(name: str) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Path, stage and block numbers, full channels (in, inner, out) of every residual block."""
    base = full(name)
    before = base.first or base.stem
    for s, (out, inner) in enumerate(base.stages):
        for b, middle in enumerate(inner):
            start = s + (2 if name in MOBILE else 1)
            yield f"features.{start}." + ("head" if b == 0 else f"tail.{b - 1}"), s, b, before, middle, out
            before = out


@cache
def shapes(name: str, classes: int) -> dict[str, tuple[int, ...]]:
    """Names of all tensors in a file, with shapes; unused biases too."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(path: str, out: int, inside: int, kernel: int = 1, bias: bool = False) -> None:
        found[f"{path}.weight"] = (out, inside, kernel, kernel)
        if bias:
            found[f"{path}.bias"] = (out,)

    def norm(path: str, size: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            found[f"{path}.{kind}"] = (size,)
        found[f"{path}.num_batches_tracked"] = ()

    base = full(name)
    if name in CIFAR:
        conv("features.0", 16, 3)
    else:
        conv("features.0.conv", base.stem, 3, 3 if name in MOBILE else 7)
        norm("features.0.norm", base.stem)
    if name in MOBILE:
        conv("features.1.conv.0", base.stem, 1, 3)
        norm("features.1.conv.1", base.stem)
        conv("features.1.conv.3", 16, base.stem)
        norm("features.1.conv.4", 16)
    for path, s, b, inside, middle, out in blocks(name):
        if name in MOBILE:
            conv(f"{path}.conv.0", middle, inside)
            norm(f"{path}.conv.1", middle)
            conv(f"{path}.conv.3", middle, 1, 3)
            norm(f"{path}.conv.4", middle)
            if MOBILE[name][s][3]:
                conv(f"{path}.conv.5.fc.0", middle // 4, middle)
                conv(f"{path}.conv.5.fc.2", middle, middle // 4)
            conv(f"{path}.conv.7", out, middle)
            norm(f"{path}.conv.8", out)
        elif name in DEEP:
            for i, (o, c, k) in enumerate(((middle, inside, 1), (middle, middle, 3), (out, middle, 1)), 1):
                conv(f"{path}.conv{i}", o, c, k, bias=True)
                norm(f"{path}.bn{i}", o)
        else:
            conv(f"{path}.conv.0", middle, inside, 3)
            norm(f"{path}.conv.1", middle)
            conv(f"{path}.conv.3", out, middle, 3)
            norm(f"{path}.conv.4", out)
        if b == 0 and (name in DEEP or (name in BASIC and s > 0)):
            conv(f"{path}.downsample.conv", out, inside, 1, bias=True)
            norm(f"{path}.downsample.bn", out)
    last = base.stages[-1][0]
    if name not in MOBILE:
        conv("classifier.0", classes, last, bias=True)
        return found
    tail = 2 + len(base.stages)
    wide = 1280 if name == "slim_mobilenetv2" else base.stages[-1][1][-1]
    conv(f"features.{tail}.conv", wide, last)
    norm(f"features.{tail}.norm", wide)
    if name != "slim_mobilenetv2":
        conv(f"features.{tail + 2}", 1280, wide, bias=True)
    found |= {"classifier.1.weight": (classes, 1280), "classifier.1.bias": (classes,)}
    return found


class Network:
    """The function of a state dict at the channels of a vector.

    Args:
        state: in double precision.
        training: batch statistics instead of the stored ones.
    """

    def __init__(self, name: str, state: Mapping[str, Tensor], *, training: bool) -> None:
        self.name, self.state, self.training = name, state, training

    def conv(self, path: str, x: Tensor, out: int, stride: int = 1, *, depthwise: bool = False) -> Tensor:
        weight = self.state[f"{path}.weight"]
        weight = weight[:out] if depthwise else weight[:out, : x.shape[1]]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] if depthwise else 1)

    def norm(self, path: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            self.state[f"{path}.{kind}"][: x.shape[1], None, None]
            for kind in ("running_mean", "running_var", "weight", "bias")
        )
        if self.training:
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def __call__(self, x: Tensor, vector: Sequence[float]) -> Tensor:
        """x: (N, 3, H, W) -> (N, classes)."""
        at = decoded(self.name, vector)
        if self.name in MOBILE:
            return self.mobile(x, at)
        if self.name in CIFAR:
            x = self.conv("features.0", x, at.stem)
        else:
            x = F.relu(self.norm("features.0.norm", self.conv("features.0.conv", x, at.stem, 2)))
            x = F.max_pool2d(x, 3, 2, 1)
        for path, s, b, *_ in blocks(self.name):
            out, inner = at.stages[s]
            stride = 2 if s > 0 and b == 0 else 1
            y = (
                self.deep(path, x, inner[b], out, stride)
                if self.name in DEEP
                else self.basic(path, x, inner[b], out, stride)
            )
            x = F.relu(y + self.shortcut(path, x, out, stride))
        x = self.conv(
            "classifier.0", x.mean((2, 3), keepdim=True), self.state["classifier.0.weight"].shape[0]
        )
        return x.reshape(x.shape[0], -1)

    def shortcut(self, path: str, x: Tensor, out: int, stride: int) -> Tensor:
        if f"{path}.downsample.conv.weight" in self.state:
            return self.norm(f"{path}.downsample.bn", self.conv(f"{path}.downsample.conv", x, out, stride))
        if stride == 1:
            return x
        x = F.avg_pool2d(x, 1, 2)
        assert x.shape[1] <= out
        return torch.cat([x, x.new_zeros(x.shape[0], out - x.shape[1], *x.shape[2:])], 1)

    def basic(self, path: str, x: Tensor, inner: int, out: int, stride: int) -> Tensor:
        x = F.relu(self.norm(f"{path}.conv.1", self.conv(f"{path}.conv.0", x, inner, stride)))
        return self.norm(f"{path}.conv.4", self.conv(f"{path}.conv.3", x, out))

    def deep(self, path: str, x: Tensor, inner: int, out: int, stride: int) -> Tensor:
        x = F.relu(self.norm(f"{path}.bn1", self.conv(f"{path}.conv1", x, inner)))
        x = F.relu(self.norm(f"{path}.bn2", self.conv(f"{path}.conv2", x, inner, stride)))
        return self.norm(f"{path}.bn3", self.conv(f"{path}.conv3", x, out))

    # --- MobileNets

    def mobile(self, x: Tensor, at: Channels) -> Tensor:
        third = self.name != "slim_mobilenetv2"
        x = self.norm("features.0.norm", self.conv("features.0.conv", x, at.stem, 2))
        x = swish(x) if third else x
        x = self.separable(x, at.first)
        for path, s, b, inside, _, full_out in blocks(self.name):
            out, inner = at.stages[s]
            stride = MOBILE[self.name][s][2] if b == 0 else 1
            y = self.inverted(path, x, inner[b], out, stride, hard=bool(MOBILE[self.name][s][4]))
            x = x + y if stride == 1 and inside == full_out else y
        tail = 2 + len(at.stages)
        x = self.conv(f"features.{tail}.conv", x, self.state[f"features.{tail}.conv.weight"].shape[0])
        x = self.norm(f"features.{tail}.norm", x)
        if third:
            x = swish(x).mean((2, 3), keepdim=True)
            x = swish(
                F.conv2d(x, *(self.state[f"features.{tail + 2}.{kind}"] for kind in ("weight", "bias")))
            )
        x = x.mean((2, 3))
        return F.linear(x, self.state["classifier.1.weight"], self.state["classifier.1.bias"])

    def separable(self, x: Tensor, out: int) -> Tensor:
        stride = 2 if self.name == "slim_mobilenetv3_small" else 1
        y = self.conv("features.1.conv.0", x, x.shape[1], stride, depthwise=True)
        y = F.relu6(self.norm("features.1.conv.1", y))
        y = self.norm("features.1.conv.4", self.conv("features.1.conv.3", y, out))
        same = stride == 1 and full(self.name).stem == full(self.name).first
        return x + y if same else y

    def inverted(self, path: str, x: Tensor, inner: int, out: int, stride: int, *, hard: bool) -> Tensor:
        act = swish if hard else F.relu6
        x = act(self.norm(f"{path}.conv.1", self.conv(f"{path}.conv.0", x, inner)))
        x = self.norm(f"{path}.conv.4", self.conv(f"{path}.conv.3", x, inner, stride, depthwise=True))
        if f"{path}.conv.5.fc.0.weight" in self.state:
            squeezed = self.state[f"{path}.conv.5.fc.0.weight"].shape[0]
            gate = F.relu(self.conv(f"{path}.conv.5.fc.0", x.mean((2, 3), keepdim=True), squeezed))
            x = x * F.relu6(self.conv(f"{path}.conv.5.fc.2", gate, inner) + 3) / 6
        return self.norm(f"{path}.conv.8", self.conv(f"{path}.conv.7", act(x), out))


def swish(x: Tensor) -> Tensor:
    return x * F.relu6(x + 3) / 6
