"""Positions that leave as numbers keep their axis; values survive."""

import pytest
import torch
from torch import nn

import anywidth as aw

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Head(nn.Module):
    """A hidden layer of 16 channels, 12 classes, and a function of their scores."""

    def __init__(self, function):
        super().__init__()
        self.hidden, self.scores, self.function = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 1), function

    def forward(self, x):
        return self.function(self.scores(self.hidden(x).relu()))


def look_up(h):
    table = torch.arange(12.0) ** 2
    return table[h.argmax(1)]


NUMBERS = {
    "argmax": lambda h: h.argmax(1),
    "argmax of all": lambda h: h.flatten(1).argmax(1),
    "argmax of everything": lambda h: h.argmax(),
    "argmin": lambda h: h.argmin(1, keepdim=True),
    "max": lambda h: h.max(1)[1],
    "both of max": lambda h: h.softmax(1).max(1),
    "min": lambda h: h.min(dim=1).indices,
    "median": lambda h: h.median(1)[1],
    "topk": lambda h: h.topk(3, 1)[1],
    "values of topk": lambda h: h.topk(3, dim=1)[0],
    "sort": lambda h: h.sort(1, descending=True)[1],
    "stable sort": lambda h: torch.sort(h, dim=1, stable=True)[1],
    "argsort": lambda h: h.argsort(1),
    "kthvalue": lambda h: h.kthvalue(2, 1)[0],
    "mode": lambda h: h.mode(1)[1],
    "cummax": lambda h: h.cummax(1)[1],
    "nonzero": lambda h: (h > 0).nonzero(),
    "where": lambda h: torch.where(h > 0)[1],
    "drawn": lambda h: torch.multinomial(h.mean((2, 3)).softmax(1), 2),
    "one-hot": lambda h: nn.functional.one_hot(h.argmax(1), 12).float(),
    "a look-up": look_up,
    "a number of Python": lambda h: h.new_tensor([h.mean((0, 2, 3)).argmax().item()]),
    "gathered": lambda h: h.gather(1, h.argmax(1, keepdim=True)),
}


@pytest.mark.parametrize("function", NUMBERS.values(), ids=NUMBERS)
@torch.no_grad()
def test_classes_whose_numbers_leave_stay_at_every_width(function):
    model = Head(function).eval()
    net = aw.Elastic(model, X)
    assert [g.name for g in net.space.groups] == ["hidden"]
    assert net.at(0.25).scores.weight.shape == (12, 4, 1, 1)
    net.extract(0.25)(X)


@pytest.mark.parametrize(
    "function",
    [lambda h: h.max(1)[0], lambda h: h.amax(1), lambda h: h.min(dim=1).values, lambda h: h.median(1)[0]],
)
@torch.no_grad()
def test_values_alone_freeze_nothing(function):
    net = aw.Elastic(Head(function).eval(), X)
    assert [g.name for g in net.space.groups] == ["hidden", "scores"]
    torch.testing.assert_close(net.at(0.5)(X), net.extract(0.5)(X))


@torch.no_grad()
def test_the_reason_says_what_happened():
    net = aw.Elastic(Head(NUMBERS["argmax"]).eval(), X)
    reasons = {(f.tensor, f.axis): f.reason for f in net.space.frozen}
    assert "positions along it leave as numbers" in reasons["scores.weight", 0]


class Looked(nn.Module):
    """An embedding that is asked for the number of the largest hidden unit."""

    def __init__(self):
        super().__init__()
        self.hidden, self.table, self.out = nn.Linear(4, 16), nn.Embedding(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.table(self.hidden(x).argmax(-1)))


class Routed(nn.Module):
    """Each token is handled by the one expert with the largest weight."""

    def __init__(self):
        super().__init__()
        self.inside, self.router, self.out = nn.Linear(4, 16), nn.Linear(16, 6), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))

    def forward(self, x):
        h = self.inside(x).relu()
        weight, number = self.router(h).softmax(-1).max(-1, keepdim=True)
        experts = torch.stack([expert(h) for expert in self.experts], -2)
        picked = experts.gather(-2, number[..., None].expand(-1, 1, h.shape[-1])).squeeze(-2)
        return self.out(picked * weight)


@pytest.mark.parametrize("build", [Looked, Routed])
@torch.no_grad()
def test_reordering_channels_leaves_models_that_look_up_by_number(build):
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(32, 4)
    expected = model(x)
    net = aw.Elastic(model, x)
    assert all(g.size not in (6,) for g in net.space.groups)
    generator = torch.Generator().manual_seed(1)
    orders = {
        g.name: torch.randperm(g.size, generator=generator).tolist() for g in net.space.groups if g.permutable
    }
    aw.reorder_(net, orders)
    torch.testing.assert_close(model(x), expected)
