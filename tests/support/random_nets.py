"""Random small networks that can be built at any width by hand, for property tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from oracles import Where

MAKERS = ("plain", "residual", "dense", "gate")  # these make a group of channels
FOLLOWERS = ("depthwise", "batchnorm", "groupnorm")  # these follow their input's
Kinds = Sequence[str]


class RandomNet(nn.Module):
    """A stem, blocks of the given kinds, a linear head. `sizes`: channels of the stem and of every maker."""

    def __init__(self, kinds: Kinds, sizes: Sequence[int]):
        super().__init__()
        self.kinds = tuple(kinds)
        self.stem = nn.Conv2d(3, sizes[0], 1)
        self.blocks = nn.ModuleList()
        c, rest = sizes[0], list(sizes[1:])
        for kind in kinds:
            new = rest.pop(0) if kind in MAKERS else 0
            self.blocks.append(nn.ModuleList(_layers(kind, c, new)))
            c = new if kind == "plain" else c + new if kind == "dense" else c
        self.head = nn.Linear(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            y = block[0](x)
            if kind == "residual":
                y = x + block[1](torch.tanh(y))
            elif kind == "dense":
                y = torch.cat([x, y], 1)
            elif kind == "gate":
                y = x * block[1](F.silu(y)).sigmoid()
            x = y
        return self.head(x.mean((2, 3)))


def _layers(kind: str, c: int, new: int) -> list[nn.Module]:
    if kind == "depthwise":
        return [nn.Conv2d(c, c, 3, padding=1, groups=c)]
    if kind == "batchnorm":
        return [nn.BatchNorm2d(c)]
    if kind == "groupnorm":
        return [nn.GroupNorm(1, c)]
    first = nn.Conv2d(c, new, 3, padding=1, bias=kind != "dense")
    return [first] if kind in ("plain", "dense") else [first, nn.Conv2d(new, c, 1)]


def group_names(kinds: Kinds) -> list[str]:
    return ["stem", *(f"blocks.{i}.0" for i, k in enumerate(kinds) if k in MAKERS)]


def where_kept(kinds: Kinds, wide: Sequence[int], units: Sequence[Sequence[int]]) -> Where:
    """Positions along every axis when group i of `wide[i]` channels keeps `units[i]`."""

    def axis(layout: Sequence[int]) -> list[int]:
        found, start = [], 0
        for g in layout:
            found += [start + u for u in units[g]]
            start += wide[g]
        return found

    where: dict[str, dict[int, list[int]]] = {"stem.weight": {0: axis([0])}, "stem.bias": {0: axis([0])}}
    layout, new = [0], 0
    for i, kind in enumerate(kinds):
        x = axis(layout)
        name = f"blocks.{i}"
        if kind in FOLLOWERS:
            where |= {f"{name}.0.{t}": {0: x} for t in ("weight", "bias", "running_mean", "running_var")}
            continue
        new += 1
        own = axis([new])
        where |= {f"{name}.0.weight": {0: own, 1: x}, f"{name}.0.bias": {0: own}}
        if kind in ("residual", "gate"):
            where |= {f"{name}.1.weight": {0: x, 1: own}, f"{name}.1.bias": {0: x}}
        layout = [new] if kind == "plain" else [*layout, new] if kind == "dense" else layout
    return where | {"head.weight": {1: axis(layout)}}


@st.composite
def nets(
    draw: st.DrawFn, *, widths: int = 1, prefix: bool = True
) -> tuple[list[str], list[int], list[list[list[int]]]]:
    """Kinds of blocks, sizes of the wide groups, and `widths` choices of units for every group."""
    kinds = draw(st.lists(st.sampled_from(MAKERS + FOLLOWERS), max_size=4))
    count = len(group_names(kinds))
    sizes = draw(st.lists(st.integers(2, 6), min_size=count, max_size=count))
    chosen = []
    for _ in range(widths):
        if prefix:
            chosen.append([list(range(draw(st.integers(1, s)))) for s in sizes])
        else:
            chosen.append([sorted(draw(st.sets(st.integers(0, s - 1), min_size=1))) for s in sizes])
    return kinds, sizes, chosen
