"""Experts that the example did not visit narrow with those that it did."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import anywidth as aw
from oracles import fill_, groups, rand, randomized

SEED = 2  # weights with which 500 tokens visit all experts, and two tokens three of them


class Expert(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))


class Mixture(nn.Module):
    """Two of eight experts for each token."""

    def __init__(self, width: int, inner: list[int]):
        super().__init__()
        self.a, self.router, self.head = (
            nn.Linear(3, width),
            nn.Linear(width, 8, bias=False),
            nn.Linear(width, 2),
        )
        self.experts = nn.ModuleList(Expert(width, n) for n in inner)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        weight, chosen = self.router(h).softmax(-1).topk(2, -1)
        total = torch.zeros_like(h)
        for e, expert in enumerate(self.experts):
            row, place = torch.where(chosen == e)
            if len(row):
                total.index_add_(0, row, expert(h[row]) * weight[row, place, None])
        return self.head(total + h)


def visited(model: nn.Module, x: Tensor) -> set[int]:
    seen: set[int] = set()
    handles = [e.register_forward_hook(lambda *_, i=i: seen.add(i)) for i, e in enumerate(model.experts)]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


@torch.no_grad()
def test_experts_without_tokens_narrow_as_their_siblings():
    model, few, many = randomized(Mixture(8, [6] * 8), SEED), rand(2, 3), 10 * rand(500, 3)
    assert 2 <= len(visited(model, few)) < 8 == len(visited(model, many))
    net = aw.Elastic(model, few)
    names = {"a": (8, 1)} | {f"experts.{i}.up": (6, 1) for i in range(8)}
    assert groups(net) == names
    inner = [3, 4, 5, 6, 1, 2, 3, 4]
    width = net.space.width({"a": 5} | {f"experts.{i}.up": n for i, n in enumerate(inner)})
    compact = fill_(Mixture(5, inner), model, {})
    assert_close(net.at(width)(many), compact(many))
    assert_close(net.extract(width)(many), compact(many))


@torch.no_grad()
def test_reordering_leaves_experts_without_tokens_as_they_are():
    model, many = randomized(Mixture(8, [6] * 8), SEED), 10 * rand(500, 3)
    expected = model(many)
    net = aw.Elastic(model, rand(2, 3))
    generator = torch.Generator().manual_seed(1)
    aw.reorder_(net, {g.name: torch.randperm(g.size, generator=generator).tolist() for g in net.space.groups})
    assert_close(model(many), expected)


def test_what_experts_cost_is_what_the_example_visits():
    model, few = randomized(Mixture(8, [6] * 8), SEED), rand(2, 3)
    net = aw.Elastic(model, few)
    ran = {t.module for t in net.space.terms if t.module.startswith("experts")}
    assert ran == {f"experts.{i}.{n}" for i in visited(model, few) for n in ("up", "down")}


class Chain(nn.Module):
    """As many layers of a list as asked for."""

    def __init__(self, run: int, width: int = 8):
        super().__init__()
        self.a, self.head, self.run = nn.Linear(3, width), nn.Linear(width, 2), slice(run)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        for layer in list(self.layers)[self.run]:
            x = layer(x).relu()
        return self.head(x)


@pytest.mark.parametrize("run", [1, 3])
def test_layers_that_follow_each_other_are_no_siblings(run):
    """Nobody knows what the fourth would read: the third reads what the second writes."""
    net = aw.Elastic(randomized(Chain(run)), rand(2, 3))
    reasons = {f.tensor: f.reason for f in net.space.frozen}
    assert all("not used" in reasons[f"layers.{i}.weight"] for i in range(run, 4))
    assert all(net.space.axis(f"layers.{i}.weight", d) is None for i in range(run, 4) for d in range(2))


class Failing(Expert):
    broken = False

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("out of order")
        return super().forward(x)


def test_a_sibling_that_does_not_run_keeps_its_width():
    model = Mixture(8, [6] * 8)
    model.experts = nn.ModuleList(Failing(8, 6) for _ in range(8))
    model, few = randomized(model), rand(2, 3)
    broken = next(iter(set(range(8)) - visited(model, few)))
    model.experts[broken].broken = True
    net = aw.Elastic(model, few)
    assert net.space.axis(f"experts.{broken}.up.weight", 0) is None
    assert len(net.space.groups) == 7 + 1
    net.extract(0.5)(few)


def test_one_expert_for_each_domain_waits_for_a_second_one_to_agree():
    class Domains(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head, self.domain = nn.Linear(3, 8), nn.Linear(8, 2), "photo"
            self.experts = nn.ModuleDict({n: Expert(8, 6) for n in ("photo", "sketch", "painting")})

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.experts[self.domain](self.a(x)))

    net = aw.Elastic(randomized(Domains()), rand(2, 3))
    assert {g.name for g in net.space.groups} == {"a", "experts.photo.up", "experts.photo.down"}
    assert net.space.axis("experts.sketch.up.weight", 0) is None
