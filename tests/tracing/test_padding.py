"""Shortcuts that fill up with zeros: the streams on both sides narrow independently, by the masked wide network's rule."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic, Width, reorder_
from anywidth.errors import WidthError
from oracles import assert_narrow, groups, masked, rand, randomized

IMAGE = (2, 3, 6, 6)


class FilledUp(nn.Module):
    """A stream of `a` channels goes on as one of `b`; `amount` says how the number of zeros is computed."""

    def __init__(self, a: int, b: int, amount: str = "sizes"):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, a, 1), nn.Conv2d(a, b, 3, 2, 1)
        self.norm, self.head = nn.BatchNorm2d(b), nn.Conv2d(b, 2, 1)
        self.before, self.after, self.amount = a, b, amount

    def fill(self, x: Tensor, y: Tensor) -> Tensor:
        count = {
            "sizes": lambda: y.shape[1] - x.shape[1],
            "earlier size": lambda: y.size(1) - x[:, :, 1:].size(1),
            "attributes": lambda: self.after - self.before,
            "both": lambda: self.after - x.shape[1],
            "written": lambda: 4,
            "half written": lambda: y.shape[1] - 8,
            "double": lambda: 3 * y.shape[1] - 4 * x.shape[1],
            "in front": lambda: y.shape[1] - x.shape[1],
            "ones": lambda: y.shape[1] - x.shape[1],
        }[self.amount]()
        if self.amount == "in front":
            return F.pad(x, (0, 0, 0, 0, count, 0))
        return F.pad(x, (0, 0, 0, 0, 0, count), value=1.0 if self.amount == "ones" else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.inner(x))
        return self.head(torch.relu(y + self.fill(x[:, :, ::2, ::2], y))).mean((2, 3))


SIZES = [(5, 9), (8, 8), (3, 3), (7, 2), (1, 12), (8, 1)]


@pytest.mark.parametrize(("a", "b"), SIZES)
@pytest.mark.parametrize("amount", ["sizes", "earlier size", "attributes", "both"])
def test_both_streams_are_groups_of_their_own(amount, a, b):
    net = Elastic(randomized(FilledUp(8, 12, amount)), rand(*IMAGE))
    assert groups(net) == {"stem": (8, 1), "inner": (12, 1)}
    assert [g.stream for g in net.space.groups] == [False, True]
    assert_narrow(net, {"stem": a, "inner": b}, FilledUp(a, b, amount), rand(*IMAGE))
    width = net.space.width({"stem": a, "inner": b})
    x = rand(*IMAGE, seed=3)
    got, expected = net.train().at(width)(x), masked(net, width)(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_the_masked_network_is_another_one():
    net = Elastic(randomized(FilledUp(8, 12)), rand(*IMAGE)).train()
    width, other = (net.space.width({"stem": 5, "inner": b}) for b in (9, 8))
    x = rand(*IMAGE, seed=3)
    assert (net.at(width)(x) - masked(net, other)(x)).abs().max() > 1e-4


def test_equal_and_falling_full_sizes():
    assert groups(Elastic(FilledUp(8, 8), rand(*IMAGE).float())) == {"stem": (8, 1), "inner": (8, 1)}
    net = Elastic(randomized(FilledUp(12, 8)), rand(*IMAGE))
    assert list(groups(net)) == ["inner"]
    assert any("cut by a fixed amount" in f.reason for f in net.space.frozen)
    assert_narrow(net, {"inner": 3}, FilledUp(12, 3), rand(*IMAGE))


@pytest.mark.parametrize(("freeze", "left"), [("stem", ["inner"]), ("inner", ["stem"])])
def test_one_of_them_may_be_frozen(freeze, left):
    net = Elastic(randomized(FilledUp(8, 12)), rand(*IMAGE), freeze=[freeze])
    assert list(groups(net)) == left
    assert_narrow(net, {left[0]: 5}, FilledUp(*((8, 5) if freeze == "stem" else (5, 12))), rand(*IMAGE))


@pytest.mark.parametrize("amount", ["written", "half written", "double", "in front", "ones"])
def test_other_paddings_are_never_narrowed_wrongly(amount):
    net = Elastic(randomized(FilledUp(8, 12, amount)), rand(*IMAGE)).train()
    width = net.space.uniform(0.5)
    x = rand(*IMAGE, seed=3)
    torch.testing.assert_close(net.at(width)(x), masked(net, width)(x), rtol=0, atol=1e-12)


class FilledTo(nn.Module):
    def __init__(self, a: int):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, a, 1), nn.BatchNorm2d(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.norm(F.pad(x, (0, 0, 0, 0, 0, 10 - x.shape[1])))


def test_filled_up_to_a_number_in_the_code():
    net = Elastic(randomized(FilledTo(8)), rand(*IMAGE))
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 3}, FilledTo(3), rand(*IMAGE))


def test_their_order_counts():
    net = Elastic(randomized(FilledUp(8, 12)), rand(*IMAGE))
    assert not any(g.permutable for g in net.space.groups)
    with pytest.raises(WidthError, match="group 'stem' cannot be reordered"):
        reorder_(net, {"stem": [*range(1, 8), 0]})


def test_a_stream_that_is_filled_up_cannot_be_empty():
    net = Elastic(randomized(FilledUp(8, 12)), rand(*IMAGE))
    width = Width(names=net.space.names, kept=(4, 0))
    with pytest.raises(
        WidthError, match="group 'inner' cannot be empty: the model routes these channels by position"
    ):
        net.extract(width)
