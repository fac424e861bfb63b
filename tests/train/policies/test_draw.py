import dataclasses
import inspect

import pytest

from anywidth.errors import WidthError
from anywidth.train import min_max, progressive, random_only, sandwich


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
