import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized
from traced_nets import IMAGE, elastic, in_each
from traced_operations import Through


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


def test_a_literal_size_in_the_code_freezes_what_it_counts():
    class Literal(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(self.a(x).reshape(-1, 8)))

    net = Elastic(randomized(Literal()), rand(4, 3))
    assert groups(net) == {"b": (6, 1)}
    assert any(f.tensor == "a.weight" and "8 is written in the code" in f.reason for f in net.space.frozen)


def test_a_section_of_one_channel_freezes_what_it_splits_and_nothing_else():
    """A single channel has no axis to carry a label, yet the sections must add up."""

    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.sections = [1, 1, 6]
            self.before, self.a, self.b, self.head = (
                nn.Linear(3, 5),
                nn.Linear(5, 8),
                nn.Linear(6, 7),
                nn.Linear(7, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            p, q, r = self.a(self.before(x)).split(self.sections, -1)
            return self.head(self.b(r * p + q))

    net = Elastic(randomized(Uneven()), rand(4, 3))
    assert not any("narrow forward" in f.reason for f in net.space.frozen)
    assert {"before", "b"} <= set(groups(net))
    assert net.at(0.5)(rand(4, 3)).shape == (4, 2)


def test_channels_that_are_numbered_keep_their_order():
    def numbered(y: Tensor) -> Tensor:
        return y * torch.arange(y.shape[-1], dtype=y.dtype)

    net = Elastic(randomized(Through(numbered)), rand(4, 3))
    assert [(g.name, g.permutable) for g in net.space.groups] == [("a", False)]
    assert_narrow(net, {"a": 3}, Through(numbered, 3), rand(4, 3))
