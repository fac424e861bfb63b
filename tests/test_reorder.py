"""Reordering channels leaves the function alone and makes any choice of channels a prefix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from anywidth import Elastic, errors, reorder_
from oracles import TIGHT, rand, randomized
from random_nets import RandomNet, group_names, nets

IMAGE = (2, 3, 4, 4)


def shuffled(net: Elastic, seed: int = 0) -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.randperm(g.size, generator=generator).tolist() for g in net.space.groups}


@settings(max_examples=20)
@given(nets(), st.integers(0, 100))
def test_the_wide_network_computes_the_same(drawn, seed):
    kinds, sizes, _ = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE)).eval()
    before, weight = net(rand(*IMAGE)), net.model.stem.weight.clone()
    order = shuffled(net, seed)
    reorder_(net, order)
    assert_close(net(rand(*IMAGE)), before, **TIGHT)
    assert torch.equal(net.model.stem.weight, weight[order["stem"]])


@settings(max_examples=20)
@given(nets(prefix=False))
def test_chosen_units_become_a_prefix(drawn):
    kinds, sizes, [units] = drawn
    net = Elastic(randomized(RandomNet(kinds, sizes)), rand(*IMAGE)).eval()
    names = group_names(kinds)
    chosen = net.space.width(dict(zip(names, units, strict=True)))
    expected = net.extract(chosen)(rand(*IMAGE))
    rest = {n: [*u, *sorted(set(range(s)) - set(u))] for n, u, s in zip(names, units, sizes, strict=True)}
    reorder_(net, rest)
    assert_close(
        net.extract(net.space.width({n: len(u) for n, u in zip(names, units, strict=True)}))(rand(*IMAGE)),
        expected,
        **TIGHT,
    )


class Attention(nn.Module):
    def __init__(self, heads: int = 4, dim: int = 3):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.qkv, self.out = nn.Linear(6, 3 * heads * dim), nn.Linear(heads * dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Attention, (2, 5, 6)),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=2), nn.Conv2d(12, 2, 1)),
            IMAGE,
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(32, 2)),
            IMAGE,
        ),
        (lambda: nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)), (2, 5, 6)),
    ],
)
def test_units_of_several_places_move_together(model, shape):
    net = Elastic(randomized(model()), rand(*shape)).eval()
    before, weights = net(rand(*shape)), [p.clone() for p in net.parameters()]
    reorder_(net, shuffled(net, 3))
    assert_close(net(rand(*shape)), before, **TIGHT)
    assert any(not torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))


def test_some_groups_only_and_undoing_it():
    net = Elastic(randomized(RandomNet(("residual", "dense"), (6, 5, 4))), rand(*IMAGE))
    state = {n: t.clone() for n, t in net.state_dict().items()}
    reorder_(net, {"stem": [3, 1, 0, 2, 5, 4]})
    assert torch.equal(net.model.blocks[0][0].bias, state["model.blocks.0.0.bias"])
    assert not torch.equal(net.model.stem.weight, state["model.stem.weight"])
    reorder_(net, {"stem": [2, 1, 3, 0, 5, 4]})  # the inverse permutation
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    reorder_(net, {})
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())


def test_statistics_of_narrow_widths_are_dropped_and_views_made_anew():
    net = Elastic(randomized(RandomNet(("residual", "batchnorm"), (6, 5))), rand(*IMAGE), widths=[0.5, 1.0])
    net.calibrate([rand(*IMAGE)])
    view = net.at(0.5)
    reorder_(net, {"stem": [5, 4, 3, 2, 1, 0]})
    assert not net.has_statistics(0.5)
    assert net.at(0.5) is not view
    with pytest.raises(errors.StatisticsError, match=r"Call net.calibrate"):
        net.eval().at(0.5)(rand(*IMAGE))
    net.calibrate([rand(*IMAGE)])
    net.eval().at(0.5)(rand(*IMAGE))


def test_tied_parameters_are_moved_once():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    model[2].weight = model[0].weight
    net = Elastic(model.double(), rand(3, 6))
    net = Elastic(nn.Sequential(nn.Linear(3, 6), *model).double(), rand(3, 3))
    before = net(rand(3, 3))
    reorder_(net, shuffled(net, 1))
    assert_close(net(rand(3, 3)), before, **TIGHT)
    assert net.model[1].weight is net.model[3].weight


# --- refusals: nothing is changed ------------------------------------------------------------------------------------------------


class Routed(nn.Module):
    """A convolution along channels (ECA): their order matters."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem, self.conv, self.head = (
            nn.Conv2d(3, width, 1),
            nn.Conv1d(1, 1, 3, padding=1),
            nn.Conv2d(width, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        gate = self.conv(y.mean((2, 3)).unsqueeze(1)).sigmoid()
        return self.head(y * gate.transpose(1, 2).unsqueeze(-1))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"stm": [0]}, r"unknown channel group 'stm'; did you mean 'stem'\?"),
        ({"stem": [0, 1, 2]}, "the order of group 'stem' must list each of its 6 units once; got 3 numbers"),
        ({"stem": [0, 0, 1, 2, 3, 4]}, "must list each of its 6 units once"),
        ({"stem": [0.0, 1.5, 2.0, 3.0, 4.0, 5.0]}, r"6 units once; got \[0.0, 1.5"),
        ({"stem": "012345"}, "6 units once; got '012345'"),
        ({"stem": None}, "6 units once; got None"),
        (None, "expected a mapping from group names to units; got None"),
        ([5, 4, 3, 2, 1, 0], "expected a mapping from group names to units"),
        ({"blocks.0.0": [4, 3, 2, 1, 0], "stem": [6, 5, 4, 3, 2, 1]}, "group 'stem' must list each"),
    ],
)
def test_bad_orders_change_nothing(order, message):
    net = Elastic(randomized(RandomNet(("residual",), (6, 5))), rand(*IMAGE))
    before = {n: t.clone() for n, t in net.state_dict().items()}
    with pytest.raises(errors.WidthError, match=message):
        reorder_(net, order)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_channels_routed_by_position_keep_their_order():
    net = Elastic(randomized(Routed()), rand(*IMAGE))
    with pytest.raises(
        errors.WidthError,
        match="group 'stem' cannot be reordered: the model routes these channels by position",
    ):
        reorder_(net, {"stem": list(range(8))[::-1]})


def test_switchable_norms_cannot_be_reordered():
    net = Elastic(randomized(RandomNet(("batchnorm",), (6,))), rand(*IMAGE), norm="switchable", widths=[0.5])
    with pytest.raises(
        errors.WidthError, match=r"cannot be reordered with switchable norms.*Use norm='shared'"
    ):
        reorder_(net, {"stem": [5, 4, 3, 2, 1, 0]})
    reorder_(net, {})


class KeepsWhatItComputed(nn.Module):
    """As attention biases in timm: computed from a parameter once, and forgotten when the mode is set."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.scale, self.b, self.cache = (
            nn.Linear(3, 6),
            nn.Parameter(torch.rand(6)),
            nn.Linear(6, 2),
            {},
        )

    def train(self, mode: bool = True) -> nn.Module:
        self.cache = {}
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "scale" not in self.cache:
            self.cache["scale"] = self.scale.exp()
        return self.b(self.a(x) * self.cache["scale"])


@torch.no_grad()
def test_what_a_model_kept_of_its_weights_is_computed_anew():
    model, x = KeepsWhatItComputed().eval(), torch.randn(4, 3)
    net = Elastic(model, x)
    before = model(x)
    assert model.cache
    reorder_(net, {net.space.names[0]: [5, 4, 3, 2, 1, 0]})
    torch.testing.assert_close(model(x), before)
    assert not model.training
