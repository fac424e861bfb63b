import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic, Width
from anywidth.graph.emptied_groups import Constant, deadened, empty_groups, with_silent
from oracles import masked, rand, randomized

IMAGE = (2, 3, 6, 6)


class Shortcut(nn.Module):
    """The layers beside the shortcut may all go; what it reads then stays."""

    def __init__(self, a: int, b: int):
        super().__init__()
        self.stem, self.inner, self.out = nn.Conv2d(3, a, 1), nn.Conv2d(a, 6, 1), nn.Conv2d(6, b, 1)
        self.head = nn.Conv2d(b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.out(self.inner(x))
        return self.head(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))).mean((2, 3))


def test_what_a_shortcut_reads_is_not_dead():
    net = Elastic(randomized(Shortcut(8, 12)), rand(*IMAGE))
    kept = {"stem": 5, "inner": 0, "out": 9}
    width = Width(names=net.space.names, kept=tuple(kept[n] for n in net.space.names))
    assert deadened(net.space, width) == width
    narrow, x = net.extract(width), rand(*IMAGE, seed=3)
    wide = masked(net, Width(names=width.names, kept=tuple(max(1, k) for k in width.kept)))
    with torch.no_grad():
        wide.inner.weight.zero_()
        wide.inner.bias.zero_()
    torch.testing.assert_close(narrow(x), wide(x), rtol=0, atol=1e-12)


def chain() -> Elastic:
    """Three groups, one behind the other."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 1))
    return Elastic(randomized(nn.Sequential(*layers, nn.Conv2d(6, 2, 3, 2, 1))), rand(*IMAGE)).eval()


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 5, dilation=2, bias=False), nn.Linear(9, 4)]
)
def test_a_layer_without_inputs_gives_its_bias_everywhere(layer):
    x = torch.randn(2, 3, 9, 9)
    constant = Constant(layer, 4)
    with torch.no_grad():
        layer.weight.zero_()
    torch.testing.assert_close(constant(x), layer(x))


def test_what_feeds_an_empty_group_alone_is_dead():
    net = chain()
    assert net.space.names == ("0", "1", "3")
    emptied = Width(names=net.space.names, kept=(4, 5, 0))
    assert deadened(net.space, emptied).kept == (0, 0, 0)
    assert deadened(net.space, Width(names=net.space.names, kept=(0, 5, 6))).kept == (0, 5, 6)
    assert (empty_groups(emptied), empty_groups(net.space.full)) == ({2}, set())


def test_empty_groups_have_one_silent_channel():
    names = ("a", "b")
    assert with_silent(Width(names=names, kept=(0, 3))).kept == (1, 3)
    width = with_silent(Width(names=names, kept=(0, 2), indices=((), (1, 4))))
    assert list(width.units(0)) == [0]
    assert list(width.units(1)) == [1, 4]


def test_an_emptied_network_is_the_bias_of_what_is_left():
    net = chain()
    small = net.extract(Width(names=net.space.names, kept=(0, 0, 0)))
    assert [type(m).__name__ for m in small] == ["Constant", "Constant", "Identity", "Constant", "Constant"]
    bias = net.model[4].bias.detach()
    torch.testing.assert_close(small(rand(*IMAGE)), bias.reshape(1, 2, 1, 1).expand(2, 2, 3, 3))


class Rows(nn.Module):
    """x @ weight + bias: its rows read."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(inputs, outputs)),
            nn.Parameter(torch.randn(outputs)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Table(nn.Embedding):
    """An embedding: its columns write."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward((x[:, :5] > 0).long())


def three_layers(kind: str) -> tuple[nn.Module, torch.Tensor]:
    if kind == "transposed":
        layers = [nn.ConvTranspose2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3), nn.ConvTranspose2d(6, 4, 1)]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]), torch.randn(2, 3, 5, 5)
    first = Table(5, 8) if kind == "table" else Rows(5, 8)
    return nn.Sequential(first, nn.ReLU(), Rows(8, 6), nn.ReLU(), Rows(6, 4)), torch.randn(2, 5)


@pytest.mark.parametrize("kept", [(0, 3), (8, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["transposed", "rows", "table"])
@torch.no_grad()
def test_an_emptied_group_is_silent_whatever_axis_writes_it(kind, kept):
    torch.manual_seed(0)
    model, x = three_layers(kind)
    net = Elastic(model.eval(), x)
    assert net.space.full.kept == (8, 6)
    width = Width(names=net.space.names, kept=kept, indices=tuple(() if k == 0 else None for k in kept))
    by_hand = copy.deepcopy(model)
    for layer, count in zip((by_hand[0], by_hand[2]), kept, strict=True):
        layer.weight[:, count:] = 0
        if getattr(layer, "bias", None) is not None:
            layer.bias[count:] = 0
    torch.testing.assert_close(net.extract(width)(x), by_hand(x))
    torch.testing.assert_close(net.extract(deadened(net.space, width))(x), by_hand(x))
