"""Every convolutional construct: its groups, and its narrow view against the network built narrow by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
IMAGE = (2, 3, 6, 6)


def elastic(model: nn.Module, *shape: int, **options) -> Elastic:
    return Elastic(randomized(model), rand(*(shape or IMAGE)), **options)


def readers(net: Elastic, name: str) -> tuple[set[str], set[str]]:
    group = next(g for g in net.space.groups if g.name == name)
    return set(group.writers), set(group.readers)


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


def in_each(number: int, size: int, kept: int) -> list[int]:
    """The first `kept` of every one of `number` blocks of `size`."""
    return [b * size + i for b in range(number) for i in range(kept)]


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


class Chunked(nn.Module):
    def __init__(self, width: int, how: str):
        super().__init__()
        self.wide, self.how, self.half = nn.Conv2d(3, 2 * width, 1), how, width
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x)
        if self.how == "chunk":
            a, b = y.chunk(2, 1)
        elif self.how == "split":
            a, b = y.split(self.half, dim=1)
        elif self.how == "slices":
            a, b = y[:, : self.half], y[:, self.half :]
        else:
            return self.head(F.glu(y, 1))
        return self.head(a * b.sigmoid())


@pytest.mark.parametrize("how", ["chunk", "split", "slices", "glu"])
def test_glu_gate_loses_the_same_channels_of_both_halves(how):
    net = elastic(Chunked(8, how))
    assert groups(net) == {"wide": (8, 2)}
    axis = in_each(2, 8, 5)
    assert_narrow(
        net, {"wide": 10}, Chunked(5, how), rand(*IMAGE), {"wide.weight": {0: axis}, "wide.bias": {0: axis}}
    )
    narrow = net.at(net.space.width({"wide": 10}))
    assert narrow.half == (5 if how in ("split", "slices") else 8)  # follows where the code reads it


class Sections(nn.Module):
    def __init__(self, a: int, b: int):
        super().__init__()
        self.sections = [a, b]
        self.both = nn.Conv2d(3, a + b, 1)
        self.left, self.right = nn.Conv2d(a, 2, 1), nn.Conv2d(b, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).split(self.sections, 1)
        return self.left(a) * self.right(b)


def test_split_into_sections_follows_a_list_of_sizes():
    net = elastic(Sections(4, 6))
    assert sorted(groups(net).values()) == [(4, 1), (6, 1)]
    w = net.space.from_vector([2 / g.size if g.size == 4 else 3 / g.size for g in net.space.groups])
    axis = [0, 1, 4, 5, 6]
    assert_narrow(net, w, Sections(2, 3), rand(*IMAGE), {"both.weight": {0: axis}, "both.bias": {0: axis}})
    assert net.at(w).sections == [2, 3]
    assert net.model.sections == [4, 6]


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


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.squeeze, self.excite = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        return self.head(y * gate.sigmoid())


def test_squeeze_and_excitation_ties_the_gate_to_what_it_scales():
    net = elastic(SqueezeExcite(8, 4))
    assert groups(net) == {"stem": (8, 1), "squeeze": (4, 1)}
    assert readers(net, "stem")[0] == {"stem", "excite"}
    assert_narrow(net, {"stem": 5, "squeeze": 2}, SqueezeExcite(5, 2), rand(*IMAGE))


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


class Normed(nn.Module):
    def __init__(self, norm: nn.Module, width: int):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(3, width), norm, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d])
def test_norms_over_the_last_dimension(norm):
    net = elastic(Normed(norm(8), 8), 4, 3)
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, Normed(norm(5), 5), rand(4, 3))


class GroupNormed(nn.Module):
    def __init__(self, width: int, number: int):
        super().__init__()
        self.stem, self.norm, self.head = (
            nn.Conv2d(3, width, 3),
            nn.GroupNorm(number, width),
            nn.Conv2d(width, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def test_group_norm_with_few_groups_narrows_each():
    net = elastic(GroupNormed(8, 2))
    axis = in_each(2, 4, 3)
    where = {f"{m}.{n}": {0: axis} for m in ("stem", "norm") for n in ("weight", "bias")}
    assert groups(net) == {"stem": (4, 2)}
    assert_narrow(net, {"stem": 6}, GroupNormed(6, 2), rand(*IMAGE), {**where, "head.weight": {1: axis}})


def test_group_norm_with_many_groups_loses_whole_groups():
    net = elastic(GroupNormed(32, 8))
    assert groups(net) == {"stem": (8, 4)}
    assert_narrow(net, {"stem": 20}, GroupNormed(20, 5), rand(*IMAGE))


@pytest.mark.parametrize("instance", [False, True])
def test_group_norm_of_one_group_or_one_channel_each(instance):
    net = elastic(GroupNormed(8, 8 if instance else 1))
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, GroupNormed(5, 5 if instance else 1), rand(*IMAGE))


class InstanceNormed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3), nn.InstanceNorm2d(width, affine=True)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)))


def test_instance_norm():
    net = elastic(InstanceNormed(8))
    assert groups(net) == {"stem": (8, 1)}
    assert_narrow(net, {"stem": 5}, InstanceNormed(5), rand(*IMAGE))


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
