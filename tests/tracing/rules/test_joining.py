import pytest
import torch
from torch import Tensor, nn

from anywidth import Elastic
from anywidth.tracing.rules.joining import copy_into, joined, pad, stack
from label_walks import walk_of
from oracles import assert_narrow, groups, rand, randomized
from traced_nets import IMAGE, elastic
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


def test_labels_stand_one_after_the_other_and_what_has_none_is_fixed():
    walk, (a,) = walk_of(3)
    x, y = torch.zeros(2, 3), torch.zeros(2, 2)
    walk.set(x, [a.view(1, 3)])
    (labels,) = joined(walk, [y, x], 1)
    assert labels.tolist() == [[0, 0, 1, 2, 3]]


def test_joined_along_another_dimension_they_are_the_same_channels():
    walk, (a, b) = walk_of(2, 2)
    x, y = torch.zeros(3, 2), torch.zeros(1, 2)
    walk.set(x, [a.view(1, 2)])
    walk.set(y, [b.view(1, 2)])
    (labels,) = joined(walk, [x, y], 0)
    assert labels.tolist() == [[1, 2]]
    assert [(p.tolist(), q.tolist()) for p, q in walk.ledger.pairs] == [([1, 2], [3, 4])]


def test_stacked_tensors_have_the_same_channels_under_a_new_dimension():
    walk, (a, b) = walk_of(2, 2)
    x, y, out = torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(2, 4, 2)
    walk.set(x, [a.view(1, 2)])
    walk.set(y, [b.view(1, 2)])
    stack(walk, None, ([x, y], 0), {}, out)
    assert [s.tolist() for s in walk.shadows(out)] == [[[[1, 2]]]]
    assert [(p.tolist(), q.tolist()) for p, q in walk.ledger.pairs] == [([1, 2], [3, 4])]


def test_padding_along_channels_is_fixed_and_cutting_freezes():
    walk, (a,) = walk_of(3)
    x, out = torch.zeros(2, 3), torch.zeros(4, 6)
    walk.set(x, [a.view(1, 3)])
    pad(walk, None, (x, [1, 2, 1, 1]), {}, out)
    assert [s.tolist() for s in walk.shadows(out)] == [[[0, 1, 2, 3, 0, 0]]]
    assert walk.ledger.freezes == []
    pad(walk, None, (x, [0, -1]), {}, torch.zeros(2, 2))
    assert [f.reason for f in walk.ledger.freezes] == ["channels are cut by a fixed amount"]
    assert walk.ledger.freezes[0].labels.tolist() == [1, 2, 3]


def test_a_blank_tensor_takes_the_channels_that_are_written_to_it():
    walk, (a,) = walk_of(3)
    blank, constant, x = torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(3)
    walk.blank(blank)
    walk.set(x, [a])
    copy_into(walk, None, (blank, x), {}, blank)
    assert [s.tolist() for s in walk.shadows(blank)] == [[[1, 2, 3]]]
    assert walk.ledger.freezes == []
    copy_into(walk, None, (constant, x), {}, constant)  # values of its own: their number stays
    assert walk.ledger.freezes[0].labels.tolist() == [1, 2, 3]


class Filled(nn.Module):
    """Frames written one after the other, or in pieces, to a tensor of zeros."""

    def __init__(self, form: str, width: int):
        super().__init__()
        self.a, self.b, self.head, self.form = (
            nn.Linear(3, width),
            nn.Linear(3, width),
            nn.Linear(width, 2),
            form,
        )

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        out = x.new_zeros(len(x), 4, y.shape[-1]) if self.form == "sized" else torch.zeros(len(x), 4, 1)
        out = out.to(x.dtype) if self.form == "sized" else x.new_zeros((*out.shape[:2], y.size(-1)))
        out[:, 0] = y
        out[:, 2:] = z[:, None]
        return self.head(out)


@pytest.mark.parametrize("form", ["sized", "like another"])
def test_parts_of_a_blank_tensor_take_the_channels_that_are_written(form):
    net = Elastic(randomized(Filled(form, 8)), rand(5, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Filled(form, 3), rand(5, 3))


def test_channels_written_to_a_part_of_a_dimension_stay():
    def halves(y: Tensor) -> Tensor:
        out = torch.zeros(len(y), 16, dtype=y.dtype)
        out[:, :8], out[:, 8:] = y, y.exp()
        return out[:, :8] + out[:, 8:]

    net = Elastic(randomized(Through(halves)), rand(5, 3))
    assert groups(net) == {}
    assert "written to a part of a tensor" in next(
        f.reason for f in net.space.frozen if f.tensor == "a.weight"
    )
