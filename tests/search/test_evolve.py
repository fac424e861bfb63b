import numpy as np
import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.search import Budget, Evolve, closed_form, run_search
from enumerated_searches import LIMITS, additive, budget, optimum, searchers


@pytest.mark.parametrize("weights", [(1.0, 3.0, 0.3), (3.0, 0.3, 1.0), (0.3, 1.0, 3.0), (2.0, 2.0, 0.1)])
def test_evolution_finds_the_optimum_of_a_network_that_can_be_enumerated(net, weights):
    errors = additive(net, weights)
    found = run_search(searchers(net)["evolve"], errors, closed_form(net, "macs")).members
    best = [optimum(net, errors, LIMITS[m.label] * net.macs(1.0)) for m in found]
    assert [m.error for m in found] == pytest.approx(best)
    assert len(found) == 2


def test_evolution_is_fixed_by_its_seed(net):
    found = [
        run_search(
            Evolve(net, budget(net), population=6, generations=2, parents=2, seed=s),
            additive(net),
            closed_form(net, "macs"),
        )
        for s in (0, 0, 1)
    ]
    assert found[0].members == found[1].members
    assert found[0].about["seed"] != found[2].about["seed"]


def test_every_limit_keeps_its_member_where_one_width_is_best_within_both(net):
    searcher = searchers(net)["evolve"]
    front = run_search(searcher, lambda widths: [0.3] * len(widths), closed_form(net, "macs"))
    assert [m.label for m in front.members] == ["macs=30%", "macs=60%"]
    assert len(searcher.explored()) == 1


def test_evolution_narrows_small_groups_to_a_latency():
    """Groups of seven units: rounding 0.93 x 7 once more at every step would leave them at seven."""
    model = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 2))
    net = Elastic(model, torch.randn(1, 3))

    def latency(widths):
        return [float(sum(w.kept)) for w in widths]

    evolve = Evolve(
        net, Budget(kind="latency", limits={"latency=6s": 6.0}), population=4, generations=1, parents=2
    )
    widths = evolve._fitted(np.array([7, 7]), latency, 6.0)
    assert [sum(w.kept) for w in widths] == [6]
