"""Every convolutional construct: its groups, and its narrow view against the network built narrow by hand."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles import assert_narrow, groups, rand
from traced_nets import IMAGE, elastic, readers


class Residual(nn.Module):
    def __init__(self, stem: int, inner: int):
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.norm = nn.BatchNorm2d(stem)
        self.up = nn.Conv2d(stem, inner, 3, bias=False)
        self.down = nn.Conv2d(inner, stem, 3, padding=2)
        self.head = nn.Linear(stem, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x + self.down(F.relu(self.up(x)))
        return self.head(x.mean((2, 3)))


def test_residual_sum_ties_both_branches():
    net = elastic(Residual(8, 12))
    assert groups(net) == {"stem": (8, 1), "up": (12, 1)}
    assert readers(net, "stem") == ({"stem", "norm", "down"}, {"up", "head"})
    assert readers(net, "up") == ({"up"}, {"down"})
    assert_narrow(net, {"stem": 3, "up": 7}, Residual(3, 7), rand(*IMAGE))


class Shared(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.twice = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.again = self.twice
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(F.relu(self.twice(self.stem(x)))))


def test_shared_module_is_shared_in_the_view():
    net = elastic(Shared(8))
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, Shared(5), rand(*IMAGE))
    view = net.at(0.5)
    assert view.twice is view.again
    assert view.twice is not net.model.twice


class Tied(nn.Module):
    """A tied autoencoder: the decoder is the encoder's weight, transposed; and a parameter under two names."""

    def __init__(self, width: int):
        super().__init__()
        self.encoder = nn.Linear(6, width)
        self.middle, self.copy = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.copy.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.copy(self.middle(self.encoder(x)).relu())
        return F.linear(y, self.encoder.weight.t())


def test_tied_parameters_stay_tied():
    net = elastic(Tied(8), 3, 6)
    assert groups(net) == {"encoder": (8, 1)}
    assert_narrow(net, {"encoder": 3}, Tied(3), rand(3, 6))
    view = net.at(0.5)
    assert view.copy.weight is view.middle.weight
    assert net.params(net.space.width({"encoder": 3})) == sum(p.numel() for p in Tied(3).parameters())


class Scaled(nn.Module):
    """ConvNeXt: channels last, layer norm, layer scale."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.Linear(hidden, width),
        )
        self.gamma = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean((-1, -2)))


def test_layer_scale_and_channels_last_blocks():
    net = elastic(Scaled(8, 16))
    assert groups(net) == {"stem": (8, 1), "up": (16, 1)}
    assert_narrow(net, {"stem": 5, "up": 7}, Scaled(5, 7), rand(*IMAGE))


class Recurrent(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.enter, self.step, self.leave = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x[:, 0])
        for t in range(1, x.shape[1]):
            h = torch.tanh(self.step(h) + self.enter(x[:, t]))
        return self.leave(h)


def test_a_loop_over_time():
    net = elastic(Recurrent(8), 2, 4, 3)
    assert groups(net) == {"enter": (8, 1)}
    assert_narrow(net, {"enter": 5}, Recurrent(5), rand(2, 4, 3))
