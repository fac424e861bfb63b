"""Writes by number and by masks: what is addressed stays, the channels beside it are those of both sides."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized
from traced_operations import Through

SOURCE, TARGET = torch.tensor([0, 1, 2, 3, 0, 4]), torch.tensor([1, 2, 3, 0, 2, 0])


def index_add(nodes: Tensor, messages: Tensor) -> Tensor:
    return torch.zeros(len(nodes), messages.shape[1], dtype=nodes.dtype).index_add(0, TARGET, messages)


def index_add_in_place(nodes: Tensor, messages: Tensor) -> Tensor:
    total = torch.zeros_like(nodes)
    total.index_add_(0, TARGET, messages)
    return total


def index_reduce(nodes: Tensor, messages: Tensor) -> Tensor:
    return nodes.new_zeros(nodes.shape).index_reduce(0, TARGET, messages, "mean")


def index_copy(nodes: Tensor, messages: Tensor) -> Tensor:
    return nodes.index_copy(0, torch.tensor([3, 1]), messages[:2])


def index_fill(nodes: Tensor, messages: Tensor) -> Tensor:
    return (nodes + messages[:5]).index_fill(0, torch.tensor([3, 1]), 0.5)


def scatter_add(nodes: Tensor, messages: Tensor) -> Tensor:
    index = TARGET[:, None].expand_as(messages)
    return messages.new_zeros(len(nodes), messages.shape[1]).scatter_add_(0, index, messages)


def scatter_reduce(nodes: Tensor, messages: Tensor) -> Tensor:
    index = TARGET[:, None].expand(-1, messages.shape[1])
    return torch.zeros_like(nodes).scatter_reduce(0, index, messages, "amax", include_self=False)


def scatter(nodes: Tensor, messages: Tensor) -> Tensor:
    return nodes.scatter(0, torch.tensor([[2], [4]]).expand(2, nodes.shape[1]), messages[:2])


def by_mask(nodes: Tensor, messages: Tensor) -> Tensor:
    total = nodes.clone()
    total[torch.tensor([True, False, True, False, True])] = messages[:3]
    return total


def under_a_none(nodes: Tensor, messages: Tensor) -> Tensor:
    total = torch.zeros(2, len(nodes), nodes.shape[1], dtype=nodes.dtype)
    total[:, torch.tensor([3, 1])] = messages[:4].unflatten(0, (2, 2))
    return total.sum(0)


class Graph(nn.Module):
    """One round of messages along the edges of a graph of five nodes."""

    def __init__(self, aggregate, width: int, out: int):
        super().__init__()
        self.node, self.message = nn.Linear(3, width), nn.Linear(width, width)
        self.update, self.head, self.aggregate = nn.Linear(width, out), nn.Linear(out, 2), aggregate

    def forward(self, x: Tensor) -> Tensor:
        nodes = F.silu(self.node(x))
        total = self.aggregate(nodes, self.message(nodes[SOURCE]))
        return self.head(F.silu(self.update(nodes + total)))


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize(
    "aggregate",
    [
        index_add,
        index_add_in_place,
        index_reduce,
        index_copy,
        index_fill,
        scatter_add,
        scatter_reduce,
        scatter,
        by_mask,
        under_a_none,
    ],
)
def test_messages_gathered_by_number_have_the_channels_of_their_target(aggregate):
    net = Elastic(randomized(Graph(aggregate, 8, 6)), rand(5, 3))
    assert groups(net) == {"node": (8, 1), "update": (6, 1)}
    assert_narrow(net, {"node": 3, "update": 4}, Graph(aggregate, 3, 4), rand(5, 3))


def gathered_channels(y: Tensor) -> Tensor:
    return torch.zeros_like(y).index_add(1, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]), y)


def own_numbers(y: Tensor) -> Tensor:
    index = torch.arange(5 * 8).reshape(5, 8) % 5
    return torch.zeros_like(y).scatter_add(0, index, y)


def a_part(y: Tensor) -> Tensor:
    return y.scatter(0, torch.zeros(1, 3, dtype=torch.long), y * 2)


@pytest.mark.parametrize("operation", [gathered_channels, own_numbers, a_part])
def test_channels_that_are_addressed_or_have_numbers_of_their_own_stay(operation):
    net = Elastic(randomized(Through(operation)), rand(5, 3))
    assert groups(net) == {}
    assert net.space.unknown == ()


class Multimodal(nn.Module):
    """Features of an image take the place of marked tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.text, self.image, self.head = nn.Linear(3, width), nn.Linear(3, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens, features = self.text(x), self.image(x[0, :3])
        mask = torch.tensor([[True, False, False, True], [False, False, True, False]])
        return self.head(tokens.masked_scatter(mask[..., None].expand_as(tokens), features))


def test_features_in_the_place_of_masked_tokens_are_the_same_channels():
    net = Elastic(randomized(Multimodal(8)), rand(2, 4, 3))
    assert groups(net) == {"text": (8, 1)}
    assert_narrow(net, {"text": 3}, Multimodal(3), rand(2, 4, 3))


def test_a_mask_over_channels_keeps_them():
    net = Elastic(randomized(Through(lambda y: y.masked_scatter(y > 0, y.exp()))), rand(5, 3))
    assert groups(net) == {}


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
