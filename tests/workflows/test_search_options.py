import pytest

from anywidth.errors import WidthError
from anywidth.workflows.search_options import parse_objective


@pytest.mark.parametrize(
    ("objective", "budget", "expected"),
    [
        (None, None, ("macs", "error")),
        (None, "params=2M", ("params", "error")),
        ("latency,loss", None, ("latency", "loss")),
        ("macs,loss", "macs=50%", ("macs", "loss")),
    ],
)
def test_the_objective_follows_the_budget(objective, budget, expected):
    assert parse_objective(objective, budget) == expected


def test_an_objective_of_another_cost_than_the_budget():
    with pytest.raises(WidthError, match="limits another cost"):
        parse_objective("params,error", "macs=50%")
