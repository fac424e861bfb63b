"""Laws that hold for any network: random stacks of awkward blocks, random widths."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from anywidth import Elastic, reorder_
from oracles import TIGHT, rand, randomized

IMAGE = (2, 3, 4, 4)


class Grouped(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        groups = draw.choice([g for g in (1, 2, 4) if c % g == 0])
        self.out = groups * draw.randint(1, 4)
        self.conv = nn.Conv2d(c, self.out, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class GroupNorm(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out, self.norm = c, nn.GroupNorm(draw.choice([g for g in (1, 2, 3, 4, 8) if c % g == 0]), c)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Gate(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out = draw.randint(1, 6)
        self.conv = nn.Conv2d(c, 2 * self.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        return a * b.sigmoid()


class Shuffle(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out, self.groups = c, draw.choice([g for g in (2, 3, 4) if c % g == 0] or [1])

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class Sections(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        first = draw.randint(2, c - 2)
        self.out, self.sections, self.conv = c, [first, c - first], nn.Conv2d(first, first, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split(self.sections, 1)
        return torch.cat([b, self.conv(a)], 1)


class Attention(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out, self.heads = c, draw.choice([h for h in (1, 2, 4) if c % h == 0])
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(y).reshape(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.proj(y).transpose(1, 2).reshape(b, c, h, w)


class PixelShuffle(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out = draw.randint(2, 4)
        self.conv = nn.Conv2d(c, 4 * self.out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pixel_shuffle(self.conv(x), 2), 2)


class Repeated(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out = 2 * c + 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.tanh(), x.mean(1, keepdim=True)], 1)


class Residual(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out = c
        self.body = nn.Sequential(nn.Conv2d(c, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Multiplied(nn.Module):
    def __init__(self, c: int, draw: random.Random):
        super().__init__()
        self.out, self.conv = 2 * c, nn.Conv2d(c, 2 * c, 3, padding=1, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


BLOCKS = (
    Grouped,
    GroupNorm,
    Gate,
    Shuffle,
    Sections,
    Attention,
    PixelShuffle,
    Repeated,
    Residual,
    Multiplied,
)


def awkward(seed: int) -> nn.Module:
    draw = random.Random(seed)
    c = draw.choice([4, 6, 8, 12])
    layers: list[nn.Module] = [nn.Conv2d(3, c, 1)]
    for _ in range(draw.randint(1, 5)):
        block = draw.choice(BLOCKS)
        if (c < 4 and block is Sections) or (c > 40 and block in (Repeated, Multiplied)):
            continue
        layers.append(block(c, draw))
        c = layers[-1].out
    return nn.Sequential(*layers, nn.Conv2d(c, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))


@pytest.mark.parametrize("seed", range(60))
def test_laws(seed):
    x = rand(*IMAGE)
    net = Elastic(randomized(awkward(seed)), x)
    assert net.space.groups
    generator = torch.Generator().manual_seed(seed)
    assert_close(net.at(net.space.full)(x), net(x), **TIGHT)
    for w in [net.space.smallest, *(net.space.sample(generator) for _ in range(2))]:
        small = net.extract(w)
        out = net.at(w)(x)
        assert_close(out, small(x), **TIGHT)
        assert net.params(w) == sum(p.numel() for p in small.parameters())
        with FlopCounterMode(display=False) as counter:
            small(x)
        assert 2 * net.macs(w) == counter.get_total_flops()
        net.zero_grad()
        out.sum().backward()
        small.zero_grad()
        small(x).sum().backward()
        for p, q in zip(net.parameters(), small.parameters(), strict=True):
            assert_close(p.grad.sum(), q.grad.sum(), **TIGHT)
            assert int((p.grad != 0).sum()) <= q.numel()
    if all(g.permutable for g in net.space.groups):
        net.eval()
        before = net(x)
        reorder_(
            net, {g.name: torch.randperm(g.size, generator=generator).tolist() for g in net.space.groups}
        )
        assert_close(net(x), before, **TIGHT)
