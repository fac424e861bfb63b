"""Masked equals extracted, or is refused: who writes a channel follows from the computation, not from the number of an axis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import WidthError
from anywidth.tracing.groups import writing_axes


class Around(nn.Module):
    """Linear, something inside on 16 channels, linear."""

    def __init__(self, inside: nn.Module, channels: int = 16) -> None:
        super().__init__()
        self.first, self.inside, self.last = nn.Linear(4, channels), inside, nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inside(self.first(x)))


class Raw(nn.Module):
    """x + relu(f(x, w)) with a raw weight."""

    def __init__(self, function, shape=(16, 16)):
        super().__init__()
        self.w, self.function = nn.Parameter(torch.randn(shape) / 4), function

    def forward(self, x):
        return x + self.function(x, self.w).relu()


class LowRank(nn.Module):
    """A low-rank update as it is folded into a weight: w = b @ a."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(5, 16) / 4), nn.Parameter(torch.randn(16, 5) / 4)

    def forward(self, x):
        return x + nn.functional.linear(x, self.b @ self.a).relu()


class Complex(nn.Module):
    """A complex weight, kept as real and imaginary parts."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, 16, 2) / 4)

    def forward(self, x):
        return (torch.complex(x, torch.zeros_like(x)) @ torch.view_as_complex(self.w)).real


class Positions(nn.Module):
    """Embeddings of positions, as a parameter or a buffer."""

    def __init__(self, kind, shape):
        super().__init__()
        position = torch.randn(shape)
        if kind == "parameter":
            self.position = nn.Parameter(position)
        else:
            self.register_buffer("position", position)

    def forward(self, x):
        return (x + self.position).relu()


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(16, 12, batch_first=True)
        self.out = nn.Linear(12, 16)

    def forward(self, x):
        return self.out(self.cell(x)[0])


CASES = {
    "x @ w": lambda: Raw(lambda x, w: x @ w),
    "x @ w.T": lambda: Raw(lambda x, w: x @ w.T),
    "(w @ x.T).T": lambda: Raw(lambda x, w: (w @ x.flatten(0, -2).T).T.reshape(x.shape)),
    "einsum ij": lambda: Raw(lambda x, w: torch.einsum("...i,ij->...j", x, w)),
    "einsum ji": lambda: Raw(lambda x, w: torch.einsum("...i,ji->...j", x, w)),
    "addmm": lambda: Raw(lambda x, w: torch.addmm(x.flatten(0, -2), x.flatten(0, -2), w).reshape(x.shape)),
    "two raw layers": lambda: Raw(lambda x, w: (x @ w).relu() @ w.T),
    "low rank": LowRank,
    "complex": Complex,
    "positions": lambda: Positions("parameter", (1, 5, 16)),
    "a vector": lambda: Positions("parameter", (16,)),
    "positions in a buffer": lambda: Positions("buffer", (5, 16)),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "batch norm": lambda: nn.Sequential(nn.Flatten(0, 1), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Unflatten(0, (2, 5))),
}  # fmt: skip


def random_width(net: aw.Elastic, seed: int) -> aw.Width:
    generator = torch.Generator().manual_seed(seed)
    return net.space.width(
        {
            g.name: sorted(torch.randperm(g.size, generator=generator)[: max(1, g.size // 2)].tolist())
            if g.permutable
            else 0.5
            for g in net.space.groups
        }
    )


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
@torch.no_grad()
def test_masked_equals_extracted(build):
    torch.manual_seed(0)
    model, x = Around(build()).double().eval(), torch.randn(2, 5, 4, dtype=torch.float64)
    net = aw.Elastic(model, x)
    assert net.space.groups
    for seed in range(3):
        width = random_width(net, seed)
        y = torch.randn(2, 5, 4, dtype=torch.float64)
        torch.testing.assert_close(aw.prune.masked(net, width)(y), net.extract(width)(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_every_group_is_judged_by_the_weights_that_write_it(build):
    torch.manual_seed(0)
    net = aw.Elastic(Around(build()).eval(), torch.randn(2, 5, 4))
    scores = aw.prune.scores(net, "l2")
    assert set(scores) == {g.name for g in net.space.groups}
    width = aw.prune.plan(net, 0.5, criterion="l2")
    assert sum(width.kept) < sum(net.space.full.kept)


def test_axes_that_write():
    net = aw.Elastic(Around(Raw(lambda x, w: x @ w)), torch.randn(2, 5, 4))
    writing = writing_axes(net.model, net.space)
    assert (writing["first.weight"], writing["last.weight"]) == ((0,), ())
    tied = aw.Elastic(Around(Raw(lambda x, w: (x @ w.T) + x)), torch.randn(2, 5, 4))
    assert writing_axes(tied.model, tied.space)["inside.w"] == (0,)
    assert writing["inside.w"] == (1,)


class Tied(nn.Module):
    """The table of embeddings is the head's weight, too: its columns write the stream, and read it."""

    def __init__(self):
        super().__init__()
        self.table, self.inside = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, ids):
        h = self.table(ids)
        return (h + self.inside(h).relu()) @ self.table.weight.T


@torch.no_grad()
def test_a_table_that_also_reads_is_masked_and_judged():
    torch.manual_seed(0)
    net = aw.Elastic(Tied().eval(), torch.arange(6)[None])
    width = net.space.width({net.space.names[0]: [1, 4, 6]})
    ids = torch.randint(20, (2, 6))
    torch.testing.assert_close(aw.prune.masked(net, width)(ids), net.extract(width)(ids))
    assert writing_axes(net.model, net.space)["table.weight"] == (1,)


class Called(nn.Module):
    """A function that calls a module of the network from outside of it, as copies do not know."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.function = lambda x: self.inner(x).relu()

    def forward(self, x):
        return self.function(x)


REFUSED = {
    "softmax over channels": lambda: nn.Softmax(-1),
    "norm without parameters": lambda: nn.LayerNorm(16, elementwise_affine=False),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)),
    "a difference behind a tiny scale": lambda: Slight(),
}


class Slight(nn.Module):
    """x + 1e-6 softmax(x): layer scales begin so small, and grow."""

    def forward(self, x):
        return x + 1e-6 * x.softmax(-1)


class TalkingHeads(nn.Module):
    """Heads are mixed before and after a softmax over the keys, which makes 1/keys of a head that is zero."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.after(self.before(x).softmax(1))


NOT_ZERO = {
    "sigmoid": lambda: nn.Sigmoid(),
    "exp": lambda: nn.Sequential(nn.Linear(16, 16), Apply(torch.exp), nn.Linear(16, 16)),
    "talking heads": TalkingHeads,
    "a closure over the module": Called,
}


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("build", NOT_ZERO.values(), ids=NOT_ZERO)
@torch.no_grad()
def test_what_makes_something_of_zeros_is_not_read(build):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    net = aw.Elastic(Around(build()).eval().double(), x)
    width = net.space.sample(torch.Generator().manual_seed(1), low=0.3)
    torch.testing.assert_close(aw.prune.masked(net, width)(x), net.extract(width)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED)
def test_what_zeros_cannot_stand_for_is_refused(build):
    torch.manual_seed(0)
    net = aw.Elastic(Around(build()).eval(), torch.randn(2, 5, 4))
    with pytest.raises(WidthError, match=r"prune.masked: with zeros .* use net.extract\(width\)"):
        aw.prune.masked(net, 0.5)


@torch.no_grad()
def test_norms_of_the_width_are_used():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 2))  # fmt: skip
    x = torch.randn(4, 3, 6, 6)
    net = aw.Elastic(model, x, widths=[0.5, 1.0]).train()
    net.calibrate([torch.randn(16, 3, 6, 6) + 1], batches=1)
    net.eval()
    torch.testing.assert_close(aw.prune.masked(net, 0.5).eval()(x), net.extract(0.5).eval()(x))


def test_a_saved_space_remembers_who_reads():
    net = aw.Elastic(Around(Raw(lambda x, w: x @ w)), torch.randn(2, 5, 4))
    again = aw.ChannelSpace.from_json(net.space.to_json())
    assert again == net.space
    assert again.readers == net.space.readers


class KeepsWhatItComputed(Around):
    """Attention biases in timm are such: computed from a parameter once, and forgotten when the mode is set."""

    def __init__(self):
        super().__init__(nn.Identity())
        self.scale, self.cache = nn.Parameter(torch.rand(16)), {}

    def train(self, mode=True):
        self.cache = {}
        return super().train(mode)

    def forward(self, x):
        if not self.cache:
            self.cache["bias"] = self.scale + 0
        return self.last(self.first(x) + self.cache["bias"])


@torch.no_grad()
def test_what_a_model_kept_of_its_weights_is_computed_anew():
    model, x = KeepsWhatItComputed().eval(), torch.randn(2, 4)
    net = aw.Elastic(model, x)
    model(x)
    masked = aw.prune.masked(net, 0.5)
    torch.testing.assert_close(masked(x), net.extract(0.5)(x))
    kept = torch.cat([model.scale[:8], torch.zeros(8)])
    torch.testing.assert_close(masked.cache["bias"], kept)
