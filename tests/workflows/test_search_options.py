import pytest

from anywidth.errors import RecipeError, WidthError
from anywidth.workflows.search_options import SearchOptions, check_search_options, parse_objective


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


@pytest.mark.parametrize("objective", ["macs", "flops,error", "macs,luck"])
def test_objectives_that_cannot_be_read(objective):
    with pytest.raises(WidthError, match=r"expected a cost \(macs, params, latency\) and a quality"):
        parse_objective(objective, None)


def test_every_method_goes_with_its_own_options():
    for options in ({"evals": 10, "method": "random"}, {"within": ("params=2M",), "method": "bayes"}, {}):
        check_search_options(SearchOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evals": 10}, "--evals is for bayes, random and evolve"),
        ({"within": ("params=2M",), "method": "evolve"}, "--within is for bayes; evolve takes one --budget"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(WidthError, match=message):
        check_search_options(SearchOptions(**options))


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="unknown method of search 'greed'; did you mean 'greedy'"):
        check_search_options(SearchOptions(method="greed"))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"beta": 3.0}, "beta"), ({"method": "random", "population": 7}, "population"), ({"method": "evolve", "prior_points": 3}, "prior-points")],
)  # fmt: skip
def test_a_setting_of_another_method_is_refused(options, name):
    method = options.get("method", "greedy")
    with pytest.raises(WidthError, match=f"--{name} has no effect on {method}"):
        check_search_options(SearchOptions(**options))
