import dataclasses

import pytest
import torch

from anywidth import recipe as recipes
from anywidth.errors import RecipeError
from anywidth.models import SmallResNet
from anywidth.recipe import Recipe
from anywidth.search import Front, Member, write_front
from anywidth.space.width import Width
from anywidth.workflows.classifier_network import (
    elastic_classifier,
    listed_widths,
    new_classifier,
    saved_classifier,
)
from anywidth.workflows.run_directory import finished_classifier


def changed(recipe, overrides, *changes: str) -> Recipe:
    plain = ("gate=null", "train.ema=0", "train.target=labels", "widths.policy=listed")
    return recipes.load(recipe, (*overrides, *plain, *changes))


def test_widths_are_listed_by_ratios_by_labels_or_by_a_front(recipe, overrides, tmp_path):
    assert listed_widths(changed(recipe, overrides, "widths.listed=[0.5, 1.0]")) == {0.5: 0.5, 1.0: 1.0}
    assert listed_widths(changed(recipe, overrides))["S"] == {"stages.1.*": 4, "stages.2.*": 8}
    width = Width(names=("a",), kept=(3,))
    member = Member(label="half", width=width, cost=1.0, error=0.1, macs=1, params=1)
    write_front(tmp_path / "front.json", Front(members=(member,), budget="macs"))
    listed = listed_widths(changed(recipe, overrides, f"widths.listed={tmp_path / 'front.json'}"))
    assert listed == {"half": width}


def test_groups_norms_and_rounding_are_those_of_the_recipe(recipe, overrides):
    changes = ("widths.listed=[0.5, 1.0]", "elastic={norm: switchable, divisor: 4, freeze: [conv]}")
    model, x = SmallResNet(channels=(8, 32, 64)), torch.zeros(1, 1, 8, 8)
    net = elastic_classifier(model, x, changed(recipe, overrides, *changes))
    assert (net.norms.policy, list(net.widths)) == ("switchable", [0.5, 1.0])
    assert {group.divisor for group in net.space.groups} == {4}
    assert "conv" not in net.space.names
    plain = elastic_classifier(model, x, changed(recipe, overrides, "widths.listed=[1.0]"))
    assert len(plain.space.groups) == len(net.space.groups) + 1


def test_joined_groups_have_the_name_of_the_recipe(recipe, overrides):
    changes = ("widths.listed=[1.0]", 'elastic={join: {late: "stages.2.*"}}')
    net = elastic_classifier(SmallResNet(channels=(8, 32, 64)), torch.zeros(1, 1, 8, 8), changed(recipe, overrides, *changes))  # fmt: skip
    assert "late" in net.space.names
    assert not any(name.startswith("stages.2") for name in net.space.names)


def test_weights_are_fixed_by_the_seed_and_the_global_generator_stays(run):
    open_run = finished_classifier(run)
    state = torch.get_rng_state()
    first, again = (new_classifier(open_run).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    other = new_classifier(
        dataclasses.replace(open_run, recipe=open_run.recipe.model_copy(update={"seed": 1}))
    )
    assert all(torch.equal(t, again[name]) for name, t in first.items())
    assert not torch.equal(first["model.conv.weight"], other.state_dict()["model.conv.weight"])


def test_fewer_logits_than_classes_are_refused(run):
    open_run = finished_classifier(run)
    model = open_run.recipe.model.model_copy(update={"kwargs": {"num_classes": 7, "channels": [8, 32, 64]}})
    few = dataclasses.replace(open_run, recipe=open_run.recipe.model_copy(update={"model": model}))
    with pytest.raises(
        RecipeError, match=r"gives 7 logits for the 10 classes.*model.kwargs.num_classes = 10"
    ):
        new_classifier(few)


def test_a_saved_network_is_the_trained_one_and_knows_its_images(run, training):
    net = saved_classifier(finished_classifier(run))
    assert [int(net.macs(label)) for label in net.widths] == [row["macs"] for row in training[0].rows]
    assert net.example().shape == (1, 1, 8, 8)
