import numpy as np
import pytest
import torch
from torch import nn

from anywidth.cost.budget import ClosedForm
from anywidth.elastic import Elastic
from anywidth.search.candidates import Box, at_cost, mutated, quasi_random, within
from known_fronts import GROUPS


@pytest.mark.parametrize(("divisor", "minimum"), [(1, 1), (8, 4), (8, 12), (3, 50)])
def test_the_box_rounds_as_uniform_widths_do(divisor, minimum):
    layers = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 7), nn.ReLU(), nn.Linear(7, 100), nn.Linear(100, 2))  # fmt: skip
    net = Elastic(layers, torch.zeros(1, 3), divisor=divisor, minimum=minimum)
    box = Box(net.space, 0.1)
    shares = np.append(np.random.default_rng(0).random(300), [0, 0.5, 1])
    units = box.units(np.repeat(shares[:, None], 3, axis=1))
    wanted = [net.space.uniform(0.1 + (1 - 0.1) * float(share)).kept for share in shares]
    np.testing.assert_array_equal(units, wanted)


def test_candidates_are_moved_to_a_cost(chain):
    box, random = Box(chain.space, 0.25), np.random.default_rng(0)
    cost = ClosedForm(chain.macs).rows
    rows = np.concatenate(
        [quasi_random(random, 64, GROUPS), mutated(random, quasi_random(random, 4, GROUPS), 64)]
    )
    targets = random.uniform(0.2, 0.8, 128) * chain.macs(1.0)
    assert rows.min() >= 0
    assert rows.max() <= 1
    moved = cost(box.units(at_cost(box, cost, rows, targets)))
    assert np.abs(moved / targets - 1).max() < 0.05
    limit = 0.4 * chain.macs(1.0)
    narrowed = within(box, cost, rows, limit)
    assert (cost(box.units(narrowed)) <= limit).all()
    already = cost(box.units(rows)) <= limit
    assert already.any()
    np.testing.assert_array_equal(narrowed[already], rows[already])
