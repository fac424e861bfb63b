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


class Bags(nn.Module):
    def __init__(self, width: int, **options):
        super().__init__()
        self.bags, self.head = nn.EmbeddingBag(9, width, **options), nn.Linear(width, 2)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.head(self.bags(*inputs))


IDS = torch.tensor([[1, 0, 8, 3], [2, 2, 5, 7]])
INPUTS = {"rows": (IDS,), "offsets": (IDS.ravel(), torch.tensor([0, 3, 3]))}


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_bags_of_embeddings(mode, inputs):
    net = Elastic(randomized(Bags(8, mode=mode)), inputs)
    assert [g.size for g in net.space.groups] == [8]
    assert_narrow(net, net.space.from_vector([3 / 8]), Bags(3, mode=mode), inputs)


def test_bags_with_a_weight_for_each_entry():
    inputs = (IDS, None, rand(2, 4))
    net = Elastic(randomized(Bags(8, mode="sum")), inputs)
    assert [g.size for g in net.space.groups] == [8]
    assert_narrow(net, net.space.from_vector([3 / 8]), Bags(3, mode="sum"), inputs)


@pytest.mark.parametrize(
    "operation",
    [
        lambda y: torch.vmap(lambda row: row.relu() * row.sum())(y),
        lambda y: y.unsqueeze(1).squeeze_(1),
        lambda y: y.clone().unsqueeze_(0).transpose_(0, 1).squeeze_(1),
        lambda y: y.T.contiguous().t_(),
    ],
    ids=["vmap", "squeeze_", "transpose_", "t_"],
)
def test_shapes_that_change_in_place(operation):
    net = Elastic(randomized(Through(operation)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert net.space.unknown == ()
    assert_narrow(net, {"a": 3}, Through(operation, 3), rand(4, 3))


def test_a_layer_for_each_sample_by_vmap():
    class Each(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.a, self.b = nn.Linear(3, width), nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.vmap(self.a)(x))

    net = Elastic(randomized(Each(8)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Each(3), rand(4, 3))


class Repeated(nn.Module):
    """Two query heads for each key head, which are copied by a number in an attribute."""

    def __init__(self, heads: int, dim: int):
        super().__init__()
        self.q, self.k, self.v = (
            nn.Linear(3, heads * 2 * dim),
            nn.Linear(3, heads * dim),
            nn.Linear(3, heads * dim),
        )
        self.head, self.dim, self.repeats = nn.Linear(heads * 2 * dim, 2), dim, 2

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, self.dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (
            t[:, :, None]
            .expand(b, t.shape[1], self.repeats, n, self.dim)
            .reshape(b, t.shape[1] * self.repeats, n, self.dim)
            for t in (k, v)
        )
        return self.head(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


def test_a_number_of_copies_in_an_attribute_is_no_channel():
    net = Elastic(randomized(Repeated(4, 3)), rand(2, 5, 3))
    assert {n: size for n, (size, _) in groups(net).items()} == {"q": 4}
    assert_narrow(net, net.space.from_vector([0.5]), Repeated(2, 3), rand(2, 5, 3))


class Interleaved(nn.Module):
    """Gates and values side by side."""

    def __init__(self, width: int):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2 * width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y[..., ::2].sigmoid() * y[..., 1::2])


def test_every_second_channel_is_kept_with_its_neighbour():
    net = Elastic(randomized(Interleaved(8)), rand(4, 3))
    assert groups(net) == {"a": (8, 2)}
    assert_narrow(net, {"a": 6}, Interleaved(3), rand(4, 3))


def places(y: Tensor) -> Tensor:
    """The last channel is asked for its shape alone."""
    steps = y[..., -1].shape[-1]
    return y * torch.arange(steps, dtype=y.dtype)[:, None]


def test_a_channel_taken_for_its_shape_freezes_nothing():
    net = Elastic(randomized(Through(places)), rand(2, 5, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Through(places, 3), rand(2, 5, 3))


@pytest.mark.parametrize(
    "operation", [lambda y: y * y[..., -1:].sum() + y[..., -1, None], lambda y: y[..., 0]]
)
def test_a_channel_taken_for_its_value_stays(operation):
    class Net(Through):
        def forward(self, x: Tensor) -> Tensor:
            return self.operation(self.a(x))

    net = Elastic(randomized(Net(operation)), rand(2, 5, 3))
    assert groups(net) == {}


def rows_where_a_mask_holds(y: Tensor) -> Tensor:
    mask = torch.tensor([True, False, True, True])[:, None]
    return torch.masked_select(y, mask).view(3, -1)


def framed(y: Tensor) -> Tensor:
    """(4, C) as C signals of length 4, to frequencies and back."""
    window = torch.hann_window(2, dtype=y.dtype) + 0.1
    signals = y.T.repeat_interleave(2, 1)
    frequencies = torch.stft(signals, 2, 1, window=window, return_complex=True)
    return torch.istft(frequencies * 1.5, 2, 1, window=window).T


@pytest.mark.parametrize("operation", [rows_where_a_mask_holds, framed])
def test_channels_that_are_moved_as_rows(operation):
    net = Elastic(randomized(Through(operation)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert net.space.unknown == ()
    assert_narrow(net, {"a": 3}, Through(operation, 3), rand(4, 3))


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda y: torch.masked_select(y, y > y.mean()).sum() * y, "chosen by their values"),
        (lambda y: torch.masked_select(y, torch.eye(4, 8) > 0).sum() * y, "not channels"),
        (lambda y: y.contiguous().as_strided((4, 8), (1, 4)), "raw strides"),
    ],
)
def test_channels_that_are_picked_by_place_or_value_stay(operation, reason):
    net = Elastic(randomized(Through(operation)), rand(4, 3))
    assert groups(net) == {}
    frozen = {(f.tensor, f.axis): f.reason for f in net.space.frozen}
    assert reason in frozen["a.weight", 0]
