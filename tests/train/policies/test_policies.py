import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.train import policies


def test_a_recipe_names_a_policy_and_listed_widths_come_widest_first(net):
    draw = policies.make_draw("listed", net, low=0.25, high=1.0, random=2)
    assert draw(torch.Generator()) == ("big", "middle", "small")
    own = policies.make_draw("user_code:only", net, low=0.5, high=1.0, random=2, options={"ratio": 0.7})
    assert own(torch.Generator()) == (0.7,)


def test_properties_are_declared_not_guessed_from_a_name():
    unlisted = {name for name, policy in policies.POLICIES.items() if policy.draws_unlisted}
    assert unlisted == {"sandwich", "random", "min_max", "progressive", "joslim"}
    assert {n for n, p in policies.POLICIES.items() if p.draws_random} == {
        "sandwich",
        "random",
        "progressive",
    }
    assert [n for n, p in policies.POLICIES.items() if p.searches] == ["joslim"]
    assert policies.policy_of("user_code:only").draws_unlisted  # not declared: it may train any width
    assert not policies.policy_of("user_code:first_and_last").draws_unlisted
    assert policies.declared(
        "nowhere:f"
    ).draws_unlisted  # a recipe can be read where its policy cannot be imported


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sandwitch", {}, "unknown width policy 'sandwitch'; did you mean 'sandwich'"),
        ("nowhere:f", {}, "width policy 'nowhere:f' cannot be imported"),
        ("sandwich", {"untill": 0.5}, "unknown option of the width policy 'sandwich' 'untill'"),
    ],
)
def test_policies_that_cannot_be(net, name, options, message):
    with pytest.raises(RecipeError, match=message):
        policies.make_draw(name, net, low=0.25, high=1.0, random=2, options=options)


def test_a_label_that_hides_a_ratio_is_refused():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    net = Elastic(model, torch.randn(1, 4), widths={0.25: 0.5, 1.0: 1.0})
    with pytest.raises(WidthError, match=r"the label 0\.25 of the listed widths is not the ratio 0\.25"):
        policies.make_draw("sandwich", net, low=0.25, high=1.0, random=2)


@pytest.mark.parametrize(("name", "key"), [("listed", "grid"), ("user_code:only", "grid"), ("user_code:anything", "per_group"), ("min_max", "per_group")])  # fmt: skip
def test_a_key_that_a_policy_does_not_take_is_refused(net, name, key):
    value = {"grid": 0.25, "per_group": True}[key]
    with pytest.raises(
        RecipeError, match=f"widths.{key} = {value}: the width policy '{name}' does not take it"
    ):
        policies.make_draw(name, net, low=0.25, high=1.0, random=2, **{key: value})
