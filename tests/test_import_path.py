import math

import pytest

from anywidth.errors import RecipeError
from anywidth.import_path import call_with, find

KNOWN = {"root": math.sqrt, "logarithm": math.log}


def test_a_name_of_ours_comes_before_any_module():
    assert find("rule", "root", KNOWN) is math.sqrt
    assert find("rule", "math:hypot", KNOWN) is math.hypot


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rood", r"unknown rule 'rood'; did you mean 'root'.*named as 'package.module:function'"),
        ("no_such_module:f", "rule 'no_such_module:f' cannot be imported: No module named"),
        ("math:no_such", "cannot be imported: module 'math' has no attribute 'no_such'"),
        ("math:pi", "rule 'math:pi' is a float, not a function"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(RecipeError, match=message):
        find("rule", name, KNOWN)


def scaled(*, low: float, high: float = 1.0, steps: int = 3):
    return low, high, steps


def test_a_function_gets_what_it_takes_of_what_is_offered_and_every_option():
    offered = {"low": 0.25, "high": 0.5, "grid": None}
    assert call_with("rule", "scaled", scaled, offered, {}) == (0.25, 0.5, 3)
    assert call_with("rule", "scaled", scaled, offered, {"high": 2, "steps": 7}) == (0.25, 2, 7)


def test_options_that_a_function_does_not_take_are_refused():
    with pytest.raises(
        RecipeError, match=r"unknown option of the rule 'scaled' 'step'; did you mean 'steps'"
    ):
        call_with("rule", "scaled", scaled, {"low": 0.25}, {"step": 7})
    with pytest.raises(RecipeError, match=r"'high' of the rule 'scaled' is a number, like 1.0; got 'wide'"):
        call_with("rule", "scaled", scaled, {"low": 0.25}, {"high": "wide"})


@pytest.mark.parametrize("name", [":f", "module:", ".relative:f", "..up:f", ":"])
def test_half_a_name_is_refused(name):
    with pytest.raises(RecipeError, match=r"your own function is named as 'package.module:function'"):
        find("rule", name, {})


def test_a_function_of_any_options_takes_any():
    assert call_with("rule", "any", lambda low, **more: (low, more), {"low": 1, "high": 2}, {"steps": 3}) == (
        1,
        {"steps": 3},
    )
