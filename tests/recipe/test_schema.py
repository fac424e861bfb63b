import pytest

from anywidth.recipe.schema import Recipe


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
