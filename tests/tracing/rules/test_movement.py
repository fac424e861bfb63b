import pytest
import torch
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized
from traced_nets import IMAGE, elastic, in_each
from traced_operations import Through


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
