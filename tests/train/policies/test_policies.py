import dataclasses
import inspect

import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.recipe.schema import Recipe
from anywidth.train import listed, listed_sandwich, min_max, policies, progressive, random_only, sandwich


def drawn(draw, count: int = 200, progress: float = 0.0):
    return [draw(torch.Generator().manual_seed(seed), progress) for seed in range(count)]


@pytest.fixture(scope="module")
def net() -> Elastic:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    return Elastic(model, torch.randn(1, 4), widths={"small": 0.25, "big": 1.0, "middle": 0.5})


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


def test_random_only_lacks_the_narrowest():
    found = drawn(random_only(low=0.25, random=2))
    assert {len(w) for w in found} == {3}
    assert {w[0] for w in found} == {1.0}
    assert all(0.25 not in w for w in found)


def test_the_two_ends_only():
    assert set(drawn(min_max(low=0.3))) == {(1.0, 0.3)}


def test_the_narrow_end_falls_while_the_training_goes_on():
    draw = progressive(low=0.25, until=0.5, random=1)
    ends = [min(draw(torch.Generator(), p)[:2]) for p in (0.0, 0.1, 0.25, 0.5, 0.9)]
    assert ends == pytest.approx([1.0, 0.85, 0.625, 0.25, 0.25])
    assert drawn(draw, 5) == [(1.0,)] * 5
    on_grid = progressive(low=0.25, until=1.0, random=1, grid=0.25)
    assert {w for p in range(11) for w in on_grid(torch.Generator(), p / 10)} <= {0.25, 0.5, 0.75, 1.0}


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


def test_a_policy_shows_the_function_that_it_is():
    assert "arXiv 1903.05134" in (sandwich.__doc__ or "")
    assert list(inspect.signature(min_max).parameters) == ["low", "high"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        sandwich.draws_random = False


def test_a_users_policy_of_listed_widths_goes_with_switchable_norms():
    recipe = {
        "model": {"name": "SmallResNet"}, "elastic": {"norm": "switchable"}, "data": {"name": "digits"}, "train": {"epochs": 3, "lr": 0.1},
        "widths": {"listed": [0.5, 1.0], "policy": "user_code:first_and_last"},
    }  # fmt: skip
    assert Recipe.model_validate(recipe).widths.listed == (0.5, 1.0)
    recipe["widths"] = {"listed": [0.5, 1.0], "policy": "user_code:only"}
    with pytest.raises(ValueError, match="batch norm for each listed width only"):
        Recipe.model_validate(recipe)


def test_a_users_policy_that_draws_needs_a_grid_to_compile():
    recipe = {
        "model": {"name": "SmallResNet"}, "data": {"name": "digits"}, "train": {"epochs": 3, "lr": 0.1, "compile": True},
        "widths": {"listed": [0.5, 1.0], "policy": "user_code:anything"},
    }  # fmt: skip
    with pytest.raises(ValueError, match="expected a grid"):
        Recipe.model_validate(recipe)
    recipe["widths"] |= {"grid": 0.25}
    Recipe.model_validate(recipe)


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


@pytest.mark.parametrize("make", [sandwich, random_only, progressive])
@pytest.mark.parametrize(
    "values", [{"low": 0.0}, {"low": 0.5, "high": 0.5}, {"low": 0.5, "random": -1}, {"low": 0.5, "grid": 0.6}]
)
def test_ranges_that_cannot_be(make, values):
    with pytest.raises(WidthError, match="random widths: expected 0 <"):
        make(**values)


def test_an_empty_list_is_refused():
    with pytest.raises(WidthError, match="the list is empty"):
        listed(())


def test_a_label_that_hides_a_ratio_is_refused():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    net = Elastic(model, torch.randn(1, 4), widths={0.25: 0.5, 1.0: 1.0})
    with pytest.raises(WidthError, match=r"the label 0\.25 of the listed widths is not the ratio 0\.25"):
        policies.make_draw("sandwich", net, low=0.25, high=1.0, random=2)


@pytest.fixture(scope="module")
def many(net) -> Elastic:
    """Six widths under whole numbers and words; two are the narrowest's, and one ratio is no ratio."""
    shares = {0: 0.25, 1: 0.375, 2: 0.5, 3: 0.75, "smallest": 0.25, "largest": 1.0, "wide": 0.75}
    return Elastic(net.model, torch.randn(1, 4), widths=shares)


def test_a_sandwich_of_listed_widths(many):
    draw = policies.make_draw("listed_sandwich", many, low=0.25, high=1.0, random=2)
    found = drawn(draw, 900)
    assert {w[0] for w in found} == {"largest"}
    assert {many.width(w[-1]) for w in found} == {many.width(0)}
    counts = {label: sum(w[1:3].count(label) for w in found) for label in (1, 2, 3)}
    assert sum(counts.values()) == 1800
    assert list(counts.values()) == pytest.approx([600] * 3, abs=80)
    assert any(w[1] == w[2] for w in found)
    assert drawn(draw) == drawn(draw)


def test_the_ends_of_a_sandwich_of_listed_widths_are_chosen(many):
    options = {"widest": 3, "narrowest": "smallest"}
    draw = policies.make_draw("listed_sandwich", many, low=0.25, high=1.0, random=1, options=options)
    assert {(w[0], w[2]) for w in drawn(draw)} == {(3, "smallest")}
    assert {w[1] for w in drawn(draw)} == {1, 2, "largest"}
    assert drawn(listed_sandwich(named=many.widths, random=0, widest=3, narrowest=0), 3) == [(3, 0)] * 3


@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        ([0, 1], {}, "and 0 others"),
        ([0, 1, 2], {"random": -1}, "got random=-1"),
        ([0, "smallest", 1], {"widest": 0, "narrowest": "smallest"}, "two different ends"),
        ([0, 1, 2], {"narrowest": "small"}, r"unknown width label 'small'.*widths.listed names them"),
    ],
)
def test_sandwiches_of_listed_widths_that_cannot_be(many, labels, values, message):
    with pytest.raises(WidthError, match=message):
        listed_sandwich(named={label: many.widths[label] for label in labels}, **values)
