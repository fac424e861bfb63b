import numpy as np

from anywidth.search.history import front_of, representatives, target_weights


def test_representatives_are_the_front_the_latest_and_some_others():
    random = np.random.default_rng(0)
    costs, errors = random.random(50), random.random(50)
    front = front_of(costs, errors)
    kept = representatives(costs, errors, at_most=len(front) + 10, random=random)
    assert set(front) <= set(kept)
    assert len(kept) == len(front) + 10
    assert {49, 48} <= set(kept) | set(front)
    np.testing.assert_array_equal(representatives(costs, errors, at_most=50, random=random), range(50))
    few = representatives(np.arange(9.0), -np.arange(9.0), at_most=3, random=random)
    np.testing.assert_array_equal(few, [0, 4, 8])


def test_a_front_leaves_out_what_is_dominated():
    assert front_of(np.array([1, 1, 2, 3, 2.0]), np.array([5, 4, 4, 1, 3.0])).tolist() == [1, 4, 3]


def test_pareto_aware_targets_are_drawn_by_area():
    bins = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    weights = target_weights(bins, [0.2, 0.6, 1.0], [1.0, 0.5, 0.4])
    # 0.2..0.6: 0.4 x 0.5 over two bins; 0.6..1: 0.4 x 0.1 over two bins
    np.testing.assert_allclose(weights, np.array([0, 0.1, 0.1, 0.02, 0.02]) / 0.24)
    np.testing.assert_allclose(target_weights(bins, [1.0], [0.4]), 0.2)
