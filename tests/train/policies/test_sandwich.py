import pytest
import torch

from anywidth.train import sandwich
from drawn_widths import drawn


def test_the_sandwich_has_both_ends_and_random_widths_between_them():
    found = drawn(sandwich(low=0.25, high=0.9, random=3))
    assert {w[:2] for w in found} == {(0.9, 0.25)}
    inner = torch.tensor([w[2:] for w in found])
    assert inner.shape == (200, 3)
    assert ((inner >= 0.25) & (inner < 0.9)).all()
    assert inner.mean() == pytest.approx(0.575, abs=0.02)  # uniform
    assert inner.std() == pytest.approx(0.65 / 12**0.5, abs=0.02)


def test_the_generator_decides():
    draw = sandwich(low=0.25)
    assert drawn(draw) == drawn(draw)
    assert len(set(drawn(draw))) == 200


def test_a_grid_is_met_evenly():
    inner = torch.tensor([w[2:] for w in drawn(sandwich(low=0.25, random=2, grid=0.25), 2000)]).flatten()
    assert inner.unique().tolist() == [0.25, 0.5, 0.75, 1.0]
    assert (inner[:, None] == inner.unique()).float().mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_a_ratio_for_each_group(net):
    found = drawn(sandwich(low=0.25, random=1, per_group=True, space=net.space))
    shares = torch.tensor([net.space.to_vector(net.width(w[2])) for w in found])
    assert shares.min() >= 0.25
    assert abs(shares.T.corrcoef()[0, 1]) < 0.2  # independent of each other
