import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized
from traced_nets import IMAGE, elastic, in_each
from traced_operations import Through


class Concat(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 1), nn.Conv2d(3, b, 1)
        self.norm = nn.BatchNorm2d(a + b + 3)
        self.head = nn.Conv2d(a + b + 3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.a(x), x, self.b(x)], 1)))


def test_concatenation_keeps_a_prefix_of_every_source():
    net = elastic(Concat(8, 6))
    assert groups(net) == {"a": (8, 1), "b": (6, 1)}
    axis = [*range(3), 8, 9, 10, *range(11, 15)]
    where = {f"norm.{n}": {0: axis} for n in ("weight", "bias", "running_mean", "running_var")}
    assert_narrow(net, {"a": 3, "b": 4}, Concat(3, 4), rand(*IMAGE), {**where, "head.weight": {1: axis}})


class Dense(nn.Module):
    """DenseNet: every layer reads all before it."""

    def __init__(self, stem: int, growth: int, growth2: int):
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 1)
        self.one = nn.Conv2d(stem, growth, 3, padding=1)
        self.two = nn.Conv2d(stem + growth, growth2, 3, padding=1)
        self.head = nn.Linear(stem + growth + growth2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.one(x)], 1)
        return self.head(torch.cat([x, self.two(x)], 1).mean((2, 3)))


def test_dense_connections_follow_segments():
    net = elastic(Dense(6, 4, 5))
    assert groups(net) == {"stem": (6, 1), "one": (4, 1), "two": (5, 1)}
    where = {"two.weight": {1: [0, 1, 2, 6, 7]}, "head.weight": {1: [0, 1, 2, 6, 7, 10, 11, 12, 13]}}
    assert_narrow(net, {"stem": 3, "one": 2, "two": 4}, Dense(3, 2, 4), rand(*IMAGE), where)


class Shuffled(nn.Module):
    def __init__(self, width: int, form: str):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.shuffle = nn.ChannelShuffle(2)
        self.head, self.form = nn.Conv2d(width, 2, 1), form

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if self.form == "module":
            return self.head(self.shuffle(y))
        n, c, h, w = y.shape
        return self.head(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


@pytest.mark.parametrize("form", ["views", "module"])
def test_channel_shuffle_loses_the_same_channels_of_every_group(form):
    net = elastic(Shuffled(8, form))
    assert groups(net) == {"stem": (4, 2)}
    axis = in_each(2, 4, 3)
    where = {"stem.weight": {0: axis}, "stem.bias": {0: axis}}
    assert_narrow(net, {"stem": 6}, Shuffled(6, form), rand(*IMAGE), where)


class Flattened(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv, self.pool, self.head = (
            nn.Conv2d(3, width, 3),
            nn.AdaptiveAvgPool2d(2),
            nn.Linear(4 * width, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.conv(x)), 1))


def test_flatten_before_a_linear_layer_gives_each_channel_its_positions():
    net = elastic(Flattened(8))
    assert groups(net) == {"conv": (8, 1)}
    assert_narrow(net, {"conv": 3}, Flattened(3), rand(*IMAGE))


class ChannelsLastFlat(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, width, 3, stride=2), nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).permute(0, 2, 3, 1).flatten(1))


def test_flatten_with_channels_last_keeps_a_prefix_at_every_pixel():
    net = elastic(ChannelsLastFlat(8))
    where = {"head.weight": {1: in_each(4, 8, 3)}}
    assert_narrow(net, {"conv": 3}, ChannelsLastFlat(3), rand(*IMAGE), where)


class PixelShuffled(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.stem, self.shuffle, self.head = (
            nn.Conv2d(3, 4 * width, 1),
            nn.PixelShuffle(2),
            nn.Conv2d(width, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shuffle(self.stem(x)))


def test_pixel_shuffle_moves_channels_to_space():
    net = elastic(PixelShuffled(8))
    assert_narrow(net, net.space.from_vector([3 / 8]), PixelShuffled(3), rand(*IMAGE))


def test_a_flip_keeps_the_end_of_what_reads_it():
    net = Elastic(randomized(Through(lambda y: y.flip(-1))), rand(4, 5, 3))
    compact = Through(lambda y: y.flip(-1), 3)
    assert_narrow(net, {"a": 3}, compact, rand(4, 5, 3), {"b.weight": {1: [5, 6, 7]}})


@pytest.mark.parametrize("rows", [[1], [0, 2], [0]])
def test_rows_written_by_number_keep_their_channels(rows):
    """Assigning one row takes its leading size of 1 away before it arrives."""

    def scattered(y: Tensor) -> Tensor:
        out = torch.zeros((len(y), *y.shape[1:]), dtype=y.dtype)
        index = torch.tensor(rows)
        out[index] = y[index]
        return out

    net = Elastic(randomized(Through(scattered)), rand(4, 5, 3))
    assert groups(net)["a"] == (8, 1)
    full = torch.zeros(4, 5, 8, dtype=torch.float64)
    x = rand(4, 5, 3)
    full[rows] = net.model.a(x)[rows]
    torch.testing.assert_close(
        net.extract(0.5)(x), F.linear(full[..., :4], net.model.b.weight[:, :4], net.model.b.bias)
    )
