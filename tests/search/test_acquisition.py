import numpy as np
import pytest

from anywidth.search.acquisition import Scalarised, SeenScales, hypervolume_gain
from anywidth.search.surrogate import Surrogate

COST = np.linspace(0.2, 1.0, 9)
ERROR = 0.1 / COST
SCALES = SeenScales.of(ERROR, COST)


def scalarised(**changes) -> Scalarised:
    return Scalarised(
        **{"beta": 0.1, "sign": -1.0, "reference": -3.0, "tolerance": 0.01, "rounds": 30, **changes}
    )


def test_scales_are_means_and_sample_deviations():
    scales = SeenScales.of(np.array([1.0, 3.0]), np.array([0.5, 0.5]))
    assert (scales.error_mean, scales.error_deviation) == (2.0, pytest.approx(2**0.5))
    assert (scales.cost_mean, scales.cost_deviation) == (0.5, 1.0)  # equal costs are not divided by zero


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_the_best_candidate_costs_about_the_target(target):
    best = scalarised().order((ERROR, np.zeros(9)), COST, SCALES, target)[0]
    assert COST[best] == pytest.approx(target, abs=0.051)


def test_the_lower_bound_goes_where_little_is_known_and_the_upper_one_does_not():
    mean, cost = np.full(3, 0.5), np.full(3, 0.5)
    deviation, scales = (
        np.array([0.1, 0.3, 0.2]),
        SeenScales(error_mean=0.5, error_deviation=0.1, cost_mean=0.5, cost_deviation=0.1),
    )
    order = {
        sign: scalarised(sign=sign, beta=1.0).order((mean, deviation), cost, scales, 0.5)
        for sign in (-1.0, 1.0)
    }
    assert order[-1.0].tolist() == [1, 2, 0]
    assert order[1.0].tolist() == [0, 2, 1]


def test_a_dominated_candidate_comes_after_what_dominates_it():
    error, cost = np.append(ERROR, ERROR[4] + 0.05), np.append(COST, COST[4])
    order = scalarised().order((error, np.zeros(10)), cost, SCALES, COST[4]).tolist()
    assert order.index(4) < order.index(9)


@pytest.mark.usefixtures("not_compiled")
def test_more_hypervolume_is_expected_of_a_better_candidate_and_none_of_a_known_one():
    x = np.linspace(0, 1, 8)[:, None]
    errors = 0.6 - 0.5 * x[:, 0]
    surrogate = Surrogate(x[:5], errors[:5])
    gain = hypervolume_gain(
        surrogate, lambda shares: 0.5 + 0 * shares[:, 0], x[:5], errors[:5], pending=np.empty((0, 1)), seed=0
    )
    worst, known, better = gain(np.array([[0.0], [x[4, 0]], [1.0]]))
    assert better > known
    assert better > worst
    np.testing.assert_array_equal(gain(x), gain(x))
