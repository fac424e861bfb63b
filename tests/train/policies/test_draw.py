import dataclasses
import inspect

import pytest
import torch

from anywidth.errors import WidthError
from anywidth.train import min_max, progressive, random_only, sandwich
from anywidth.train.policies.draw import as_policy, random_widths, width_policy


def test_a_policy_shows_the_function_that_it_is():
    assert "arXiv 1903.05134" in (sandwich.__doc__ or "")
    assert list(inspect.signature(min_max).parameters) == ["low", "high"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        sandwich.draws_random = False


@pytest.mark.parametrize("make", [sandwich, random_only, progressive])
@pytest.mark.parametrize(
    "values", [{"low": 0.0}, {"low": 0.5, "high": 0.5}, {"low": 0.5, "random": -1}, {"low": 0.5, "grid": 0.6}]
)
def test_ranges_that_cannot_be(make, values):
    with pytest.raises(WidthError, match="random widths: expected 0 <"):
        make(**values)


def test_ratios_on_a_grid_are_met_exactly():
    """0.3 + 3 * 0.1 is just above 0.6 in floats, and (1 - 0.3) / 0.1 just below 7."""
    ratios = random_widths(torch.Generator().manual_seed(0), 500, low=0.3, high=1.0, grid=0.1)
    assert sorted(set(ratios)) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def test_a_plain_function_is_a_policy_that_may_train_any_width():
    policy = as_policy(lambda low: None)
    assert (policy.draws_unlisted, policy.draws_random, policy.searches) == (True, False, False)
    assert as_policy(sandwich) is sandwich
    declared = width_policy(draws_unlisted=False)(lambda listed: listed)
    assert not declared.draws_unlisted
    assert declared((1, 2)) == (1, 2)
