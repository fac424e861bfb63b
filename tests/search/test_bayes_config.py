from dataclasses import FrozenInstanceError, asdict

import pytest

from anywidth.errors import WidthError
from anywidth.search import BayesConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch = 0: expected a whole number from 1"),
        ({"targets": 1}, "targets = 1: expected a whole number from 2"),
        ({"history": 3}, "history = 3: expected a whole number from 4"),
        ({"rounds": 1.5}, "rounds = 1.5: expected a whole number"),
        ({"evals": 20}, "evals = 20: expected more than prior_points"),
        ({"tolerance": 1.0}, "tolerance = 1.0: expected 0 < tolerance < 1"),
        ({"sampling": "even"}, "sampling = 'even': expected uniform or pareto"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(WidthError, match=f"search: {message}"):
        BayesConfig(**settings)


def test_a_config_is_plain_data_that_stays():
    config = BayesConfig(evals=30, seed=4)
    assert asdict(config)["evals"] == 30
    assert list(asdict(config))[:3] == ["kind", "evals", "batch"]  # the order of the log's heading
    with pytest.raises(FrozenInstanceError):
        config.evals = 40
