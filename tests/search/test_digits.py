"""Searches on a trained network of which every width is known."""

import itertools

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from anywidth.elastic import Elastic
from anywidth.search import Budget, Evolve, Greedy, closed_form, largest_uniform, run_search, undominated
from anywidth.space.width import Width
from anywidth.train import evaluate

LIMITS = {"macs=70%": 0.7, "macs=45%": 0.45}


def trained(seed: int):
    """Three hidden layers, trained at the widest, the narrowest and a random width; and its held-out images."""
    torch.manual_seed(seed)
    layers = [
        m for a, b in ((64, 16), (16, 16), (16, 16)) for m in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
    ]
    net = Elastic(nn.Sequential(*layers, nn.Linear(16, 10)), torch.randn(2, 64), divisor=4, minimum=4)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16 - 0.5, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1200], order[1200:]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.train()
    for _ in range(300):
        batch = train[torch.randint(len(train), (64,), generator=generator)]
        optimizer.zero_grad()
        for w in (net.space.full, net.space.smallest, net.space.sample(generator)):
            nn.functional.cross_entropy(net.at(w)(x[batch]), y[batch]).backward()
        optimizer.step()
    return net, [(x[held_out], y[held_out])]


@pytest.fixture(scope="module", params=range(3))
def enumerated(request):
    """The network, and the held-out error of each of its 64 widths."""
    net, batches = trained(request.param)
    widths = [Width(names=net.space.names, kept=k) for k in itertools.product((4, 8, 12, 16), repeat=3)]
    scores = evaluate(net, batches, widths, norm="batch")
    errors = {w: 1 - s.accuracy for w, s in zip(widths, scores, strict=True)}
    assert errors[net.space.full] < 0.1 < errors[net.space.smallest]
    return net, errors


def search(net, errors, searcher):
    asked = []

    def evaluate(widths):
        asked.extend(widths)
        return [errors[w] for w in widths]

    front = run_search(searcher, evaluate, closed_form(net, "macs"))
    assert len(asked) == len(set(asked))
    return front, asked


def gaps(net, errors, front):
    """How far each found error lies above that of the best width within the limit."""
    best = {
        label: min(e for w, e in errors.items() if net.macs(w) <= share * net.macs(1.0))
        for label, share in LIMITS.items()
    }
    return [m.error - best[m.label] for m in front.members]


def budget(net) -> Budget:
    return Budget(kind="macs", limits={label: share * net.macs(1.0) for label, share in LIMITS.items()})


def test_evolution_finds_the_best_width_within_each_limit(enumerated):
    net, errors = enumerated
    searcher = Evolve(net, budget(net), population=16, generations=6, parents=6)
    front, asked = search(net, errors, searcher)
    assert gaps(net, errors, front) == [0.0, 0.0]
    assert len(asked) < len(errors)
    frontier = searcher.explored()
    assert {m.width for m in front.members} <= set(asked)
    assert undominated(frontier) == frontier
    for m in frontier:
        assert not any(net.macs(w) <= m.macs and errors[w] < m.error for w in asked)


@pytest.mark.parametrize(("criterion", "most"), [("error", 0.04), ("error_per_cost", 0.06)])
def test_greedy_ends_near_the_best_width(enumerated, criterion, most):
    """It asks for 19 of the 64 widths and never takes a step back, so a gap is left: up to 2.7 and 3.9 points were seen."""
    net, errors = enumerated
    front, asked = search(net, errors, Greedy(net, budget(net), steps=4, criterion=criterion))
    assert all(0 <= gap <= most for gap in gaps(net, errors, front))
    assert len(asked) < len(errors) / 3
    narrow, wide = front.members
    assert narrow.width <= wide.width <= net.space.full


def test_nothing_found_is_worse_than_uniform_by_much(enumerated):
    net, errors = enumerated
    front, _ = search(net, errors, Evolve(net, budget(net), population=16, generations=6, parents=6))
    for m in front.members:
        uniform = largest_uniform(net, closed_form(net, "macs"), LIMITS[m.label] * net.macs(1.0))
        assert m.error <= errors[uniform]
