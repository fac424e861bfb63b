"""Closed-form cost against torch's own counter on networks that really are that narrow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anywidth import Elastic, errors
from oracles import rand, randomized
from random_nets import RandomNet, group_names, nets

IMAGE = (2, 3, 6, 6)


def counted(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds by torch's counter, which reports 2 for each."""
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):  # with gradients: no fused fast path
        model.eval()(*inputs)
    total = counter.get_total_flops()
    assert total % 2 == 0
    return total // 2


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_counter_itself():
    assert counted(nn.Linear(3, 5), torch.randn(7, 3)) == 7 * 3 * 5
    assert counted(nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5)) == 2 * 9 * 3 * 3 * 2 * 6


class Attention(nn.Module):
    def __init__(self, heads: int = 4, dim: int = 4, hidden: int = 12):
        super().__init__()
        e = heads * dim
        self.stem = nn.Linear(6, e)
        self.layer = nn.TransformerEncoderLayer(e, heads, hidden, dropout=0.0, batch_first=True)
        self.head = nn.Linear(e, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y + self.layer.self_attn(y, y, y, need_weights=False)[0]
        return self.head(self.layer.linear2(torch.relu(self.layer.linear1(y))))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 24, 3, groups=2),
        nn.GroupNorm(2, 24),
        nn.ConvTranspose2d(24, 8, 2, 2),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def grown() -> nn.Module:
    return RandomNet(("residual", "dense", "gate", "plain", "depthwise"), (8, 6, 5, 4, 9))


NETS = {"convnet": (convnet, (2, 3, 8, 8)), "grown": (grown, IMAGE), "attention": (Attention, (2, 5, 6))}


def make(name: str) -> tuple[Elastic, Tensor]:
    model, shape = NETS[name]
    x = rand(*shape)
    return Elastic(randomized(model()), x), x


@pytest.mark.parametrize("name", NETS)
def test_macs_are_half_of_torchs_flops_and_params_exact_at_every_width(name):
    net, x = make(name)
    generator = torch.Generator().manual_seed(1)
    widths = [
        net.space.full,
        net.space.smallest,
        net.space.uniform(0.5),
        *(net.space.sample(generator) for _ in range(8)),
    ]
    for w in widths:
        small = net.extract(w)
        assert net.macs(w) == counted(small, x), w
        assert net.params(w) == params(small), w
        assert isinstance(net.macs(w), int)
    assert net.macs(1.0) == counted(net.model, x)


@settings(max_examples=20)
@given(nets())
def test_costs_of_random_nets(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE))
    w = net.space.width({n: len(u) for n, u in zip(group_names(kinds), units, strict=True)})
    compact = RandomNet(kinds, [len(u) for u in units])
    assert net.macs(w) == counted(compact.double(), rand(*IMAGE))
    assert net.params(w) == params(compact)


@settings(max_examples=15)
@given(nets(widths=2))
def test_costs_are_monotone(drawn):
    kinds, sizes, (a, b) = drawn
    net = Elastic(RandomNet(kinds, sizes), torch.randn(*IMAGE))
    names = group_names(kinds)
    wide = net.space.width({n: max(len(p), len(q)) for n, p, q in zip(names, a, b, strict=True)})
    narrow = net.space.width({n: len(p) for n, p in zip(names, a, strict=True)})
    assert narrow <= wide
    for cost in (net.macs, net.params, net.activations):
        assert cost(narrow) <= cost(wide) <= cost(1.0)


@pytest.mark.parametrize("name", NETS)
def test_an_array_of_widths_is_many_widths(name):
    net, _ = make(name)
    generator = torch.Generator().manual_seed(2)
    widths = [net.space.sample(generator) for _ in range(50)]
    rows = np.array([w.kept for w in widths])
    for cost in (net.macs, net.params, net.activations):
        many = cost(rows)
        assert many.dtype == np.int64
        assert many.tolist() == cost(widths).tolist() == [cost(w) for w in widths]
    assert net.macs([0.5, 1.0]).tolist() == [net.macs(0.5), net.macs(1.0)]


def test_more_widths_than_one_chunk():
    net, _ = make("convnet")
    rows = np.repeat(np.array([net.space.uniform(0.5).kept, net.space.full.kept]), 10_000, axis=0)
    macs = net.macs(rows)
    assert macs.shape == (20_000,)
    assert set(macs[:10_000]) == {net.macs(0.5)}
    assert set(macs[10_000:]) == {net.macs(1.0)}


def test_an_array_needs_one_column_per_group():
    net, _ = make("convnet")
    with pytest.raises(errors.WidthError, match=r"one column per channel group \(\d+\); got 1"):
        net.macs(np.ones((3, 1), int))


def test_chosen_units_cost_what_they_are():
    model = grown()
    net = Elastic(randomized(model), rand(*IMAGE))
    w = net.space.width(
        {"stem": [1, 3, 6], "blocks.0.0": [0, 5], "blocks.1.0": [4], "blocks.3.0": [0, 2, 4, 8]}
    )
    small = net.extract(w)
    assert net.macs(w) == counted(small, rand(*IMAGE))
    assert net.params(w) == params(small)


def test_chosen_units_of_an_axis_that_follows_a_part_of_a_group():
    class Halves(nn.Module):
        """One reader sees the first half of the channels, another all of them."""

        def __init__(self):
            super().__init__()
            self.sections = [4, 4]
            self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.c(y) + self.b(y.split(self.sections, -1)[0])

    net = Elastic(randomized(Halves()), rand(2, 3))
    generator = torch.Generator().manual_seed(0)
    for w in [net.space.sample(generator) for _ in range(5)]:
        assert net.macs(w) == counted(net.extract(w), rand(2, 3))
        assert net.params(w) == params(net.extract(w))


def test_slimmable_convention_adds_average_pools_by_their_inputs():
    net, _ = make("convnet")
    for w in (net.space.full, net.space.uniform(0.5)):
        pooled = [m for m in net.extract(w) if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        kept = net.cost
        row = np.array([w.kept])
        first, last = pooled[0].out_channels * 64, pooled[-1].out_channels * 16
        assert int(kept.macs(row, "slimmable")[0]) - net.macs(w) == 2 * (first + last)


def test_global_average_as_a_mean_is_a_pool_too():
    net = Elastic(grown(), torch.randn(*IMAGE))
    row = np.array([net.space.full.kept])
    assert int(net.cost.macs(row, "slimmable")[0]) - net.macs(1.0) == 2 * 9 * 36


def test_an_unknown_convention_is_an_error():
    net, _ = make("convnet")
    with pytest.raises(ValueError, match="convention='torch' is unknown: use 'anywidth' or 'slimmable'"):
        net.cost.macs(np.array([net.space.full.kept]), "torch")


def test_activations_are_the_outputs_of_contractions():
    net = Elastic(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)), torch.randn(2, 3, 6, 6))
    assert net.activations(1.0) == 2 * 16 * (8 + 2)
    assert net.activations(0.5) == 2 * 16 * (4 + 2)


def test_tied_parameters_count_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))
    model[2].weight = model[0].weight
    net = Elastic(model, torch.randn(1, 6))
    assert net.params(1.0) == params(model) == 36 + 6 + 6 + 12 + 2
    for w in (0.5, 1.0):
        assert net.params(w) == params(net.extract(w))


def test_a_shared_module_costs_once_per_call():
    layer = nn.Linear(6, 6)
    net = Elastic(
        nn.Sequential(nn.Linear(3, 6), layer, nn.ReLU(), layer, nn.Linear(6, 2)).double(), rand(2, 3)
    )
    for w in (0.5, 1.0):
        assert net.macs(w) == counted(net.extract(w), rand(2, 3))


def test_costs_survive_large_numbers():
    """MACs beyond 32 bits are exact."""
    model = nn.Sequential(
        nn.Conv2d(3, 4096, 1), nn.Conv2d(4096, 4096, 3, padding=1), nn.Conv2d(4096, 2, 1)
    ).to("meta")
    space = Elastic(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)),
        torch.randn(1, 3, 64, 64),
    )
    assert space.macs(1.0) == 64 * 64 * (3 * 8 + 9 * 64 + 16)
    net = Elastic(model, torch.empty(1, 3, 64, 64, device="meta"))
    assert net.macs(1.0) == 64 * 64 * (3 * 4096 + 9 * 4096**2 + 2 * 4096)
