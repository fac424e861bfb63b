import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized
from traced_nets import IMAGE, elastic, in_each

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Depthwise(nn.Module):
    def __init__(self, width: int, many: int = 1):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.depthwise = nn.Conv2d(width, many * width, 3, groups=width)
        self.norm = nn.BatchNorm2d(many * width)
        self.point = nn.Conv2d(many * width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.norm(self.depthwise(self.stem(x))))


@pytest.mark.parametrize("many", [1, 3])
def test_depthwise_convolution_follows_its_input(many):
    net = elastic(Depthwise(8, many))
    assert list(groups(net)) == ["stem"]
    assert groups(net)["stem"][0] == 8
    assert_narrow(net, net.space.from_vector([5 / 8]), Depthwise(5, many), rand(*IMAGE))


class Grouped(nn.Module):
    def __init__(self, width: int, out: int, number: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.grouped = nn.Conv2d(width, out, 3, groups=number)
        self.head = nn.Conv2d(out, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.grouped(F.relu(self.stem(x)))))


@pytest.mark.parametrize("number", [2, 4])
def test_group_convolution_keeps_its_number_of_groups_and_narrows_each(number):
    net = elastic(Grouped(8, 24, number))
    assert groups(net) == {"stem": (8 // number, number), "grouped": (24 // number, number)}
    first, second = in_each(number, 8 // number, 1), in_each(number, 24 // number, 4)
    where = {
        "stem.weight": {0: first},
        "stem.bias": {0: first},
        "grouped.weight": {0: second},
        "grouped.bias": {0: second},
        "head.weight": {1: second},
    }
    assert_narrow(
        net, {"stem": number, "grouped": 4 * number}, Grouped(number, 4 * number, number), rand(*IMAGE), where
    )


class Standardised(nn.Conv2d):
    """Weight standardisation, written out (arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        mean, var = w.mean((1, 2, 3), keepdim=True), w.var((1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, (w - mean) / (var + 1e-5).sqrt(), self.bias, padding=1)


class StandardisedByNorm(nn.Conv2d):
    """The form of timm: a batch norm over the reshaped weight."""

    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True).reshape_as(
            self.weight
        )
        return F.conv2d(x, w, self.bias, padding=1)


class WeightStandardised(nn.Module):
    def __init__(self, kind: type, a: int, b: int):
        super().__init__()
        self.a, self.b, self.head = kind(3, a, 3), kind(a, b, 3), nn.Conv2d(b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


@pytest.mark.parametrize("kind", [Standardised, StandardisedByNorm])
def test_weight_standardisation_is_computed_on_the_narrow_weight(kind):
    net = elastic(WeightStandardised(kind, 8, 6))
    assert groups(net) == {"a": (8, 1), "b": (6, 1)}
    assert_narrow(net, {"a": 3, "b": 4}, WeightStandardised(kind, 3, 4), rand(*IMAGE))


class Plain(nn.Module):
    def __init__(self, dims: int, width: int):
        super().__init__()
        self.a, self.norm = CONV[dims](3, width, 3, padding=1, padding_mode="circular"), NORM[dims](width)
        self.b = CONV[dims](width, 2, 3, dilation=2)
        self.pool = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.pool(F.gelu(self.norm(self.a(x)))))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolution_in_1_2_and_3_dimensions(dims):
    net = elastic(Plain(dims, 8), 2, 3, *[10] * dims)
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Plain(dims, 3), rand(2, 3, *[10] * dims))


class Transposed(nn.Module):
    def __init__(self, dims: int, a: int, b: int):
        super().__init__()
        self.a = TRANSPOSED[dims](3, a, 3, stride=2, output_padding=1, padding=1)
        self.b = TRANSPOSED[dims](a, b, 2, bias=False)
        self.head = CONV[dims](b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolution(dims):
    net = elastic(Transposed(dims, 8, 6), 2, 3, *[4] * dims)
    assert groups(net) == {"a": (8, 1), "b": (6, 1)}
    assert_narrow(net, {"a": 5, "b": 3}, Transposed(dims, 5, 3), rand(2, 3, *[4] * dims))


class TransposedGroups(nn.Module):
    def __init__(self, a: int, b: int, number: int):
        super().__init__()
        self.stem = nn.Conv2d(3, a, 1)
        self.up, self.head = nn.ConvTranspose2d(a, b, 2, stride=2, groups=number), nn.Conv2d(b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.stem(x))))


def test_transposed_group_convolution_narrows_each_group():
    net = elastic(TransposedGroups(8, 12, 2))
    first, second = in_each(2, 4, 3), in_each(2, 6, 2)
    where = {
        "stem.weight": {0: first},
        "stem.bias": {0: first},
        "up.weight": {0: first},
        "up.bias": {0: second},
        "head.weight": {1: second},
    }
    assert {n: s for n, (s, _) in groups(net).items()} == {"stem": 4, "up": 6}
    w = net.space.from_vector([3 / 4 if g.name == "stem" else 2 / 6 for g in net.space.groups])
    assert_narrow(net, w, TransposedGroups(6, 4, 2), rand(*IMAGE), where)


def test_transposed_depthwise_convolution():
    net = Elastic(randomized(TransposedGroups(8, 8, 8)), rand(*IMAGE))
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, TransposedGroups(5, 5, 5), rand(*IMAGE))


class Einsum(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.a, self.w = nn.Linear(3, width), nn.Parameter(torch.zeros(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bc,co->bo", self.a(x), self.w)


def test_einsum():
    net = Elastic(randomized(Einsum(8)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Einsum(3), rand(4, 3))


class Deformed(nn.Module):
    def __init__(self, width: int, out: int, offset_groups: int = 1, number: int = 1):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.offset = nn.Conv2d(width, 18 * offset_groups, 3, padding=1)
        self.mask = nn.Conv2d(width, 9 * offset_groups, 3, padding=1)
        self.deform = DeformConv2d(width, out, 3, padding=1, groups=number)
        self.head = nn.Conv2d(out, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(self.deform(y, 0.1 * self.offset(y), self.mask(y).sigmoid()))


def test_a_deformable_convolution_keeps_its_offsets_and_narrows_as_a_convolution():
    net = elastic(Deformed(8, 6))
    assert groups(net) == {"stem": (8, 1), "deform": (6, 1)}
    assert_narrow(net, {"stem": 3, "deform": 4}, Deformed(3, 4), rand(*IMAGE), names=False)


def test_deformable_convolutions_in_groups_lose_the_same_channels_of_each():
    net = elastic(Deformed(8, 12, 2, 2))
    assert groups(net) == {"stem": (4, 2), "deform": (6, 2)}
    first, second = in_each(2, 4, 3), in_each(2, 6, 2)
    where = {
        "stem.weight": {0: first},
        "stem.bias": {0: first},
        "offset.weight": {1: first},
        "mask.weight": {1: first},
        "deform.weight": {0: second},
        "deform.bias": {0: second},
        "head.weight": {1: second},
    }
    width = {"stem": 6, "deform": 4}
    assert_narrow(net, width, Deformed(6, 4, 2, 2), rand(*IMAGE), where, names=False)


class Spectral(nn.Module):
    """Weights divided by their largest singular value, which is estimated from vectors in buffers."""

    def __init__(self, layer: type, norm, a: int, b: int):
        super().__init__()
        kernel = () if layer is nn.Linear else (3,)
        self.a, self.b = norm(layer(3, a, *kernel)), norm(layer(a, b, *kernel))
        self.head = layer(b, 2, *kernel)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("layer", [nn.Linear, nn.Conv2d, nn.ConvTranspose2d])
@torch.no_grad()
def test_a_spectral_norm_is_that_of_the_narrow_weight_and_vectors(layer, norm):
    x = rand(4, 3) if layer is nn.Linear else rand(2, 3, 8, 8)
    model = randomized(Spectral(layer, norm, 8, 6)).eval()
    net = Elastic(model, x)
    assert {g.size for g in net.space.groups} == {8, 6}
    assert net.space.unknown == ()
    width = net.space.width({g.name: 3 if g.size == 8 else 4 for g in net.space.groups})
    compact = Spectral(layer, norm, 3, 4).double().eval()
    # The flattened weight of a convolution has in x 9 columns, and the vector beside it as many entries: prefixes too.
    wide = model.state_dict()
    state = {n: wide[n][tuple(map(slice, t.shape))] for n, t in compact.state_dict().items()}
    compact.load_state_dict(state)
    torch.testing.assert_close(net.at(width)(x), compact(x))
    torch.testing.assert_close(net.extract(width).eval()(x), compact(x))
