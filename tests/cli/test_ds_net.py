"""Training of a dynamic slimmable network: joined groups, widths by labels, and what a finished run keeps of them."""

import json
from pathlib import Path

import pytest
import yaml

from anywidth import recipe as recipes
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.run_directory import finished_classifier

RECIPE = """\
model:
  name: DSMBNet
  kwargs: {num_classes: 3, channels: [6, 8, 10], blocks: [1, 2], strides: [1, 2], stem_stride: 1}
elastic:
  freeze: ["*.attention.squeeze.reduce"]
  join: {stem: "stem.*", stages.0: "stages.0.*", stages.1: "stages.1.*"}
widths:
  policy: listed_sandwich
  listed: {0: [4, 4, 4], 1: [4, 4, 6], 2: [4, 4, 10], smallest: [4, 4, 4], largest: [6, 8, 10]}
train:
  epochs: 2
  lr: 0.05
  target: ema_ensemble
  ema: 0.9
  dropout_on: widest
  skip_zero_gradients: true
  eval_every: 1
  best: smallest
calibration: {batches: 2}
threads: 1
device: cpu
"""


@pytest.fixture
def recipe(images, tmp_path) -> Path:
    data = {"name": "folder", "root": str(images), "batch_size": 8, "image_size": 12}
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + yaml.safe_dump({"data": data}))
    return path


@pytest.fixture
def run(recipe, run_command, tmp_path) -> Path:
    path = tmp_path / "run"
    code, _, err = run_command("train", recipe, "--run", path)
    assert code == 0, err
    return path


def test_a_finished_run_keeps_joined_groups_and_labels(run, recipe, run_command):
    settings = recipes.load(run / "recipe.yaml")
    assert settings == recipes.load(recipe)
    net = saved_classifier(finished_classifier(run))
    assert net.space.names == ("stem", "stages.0", "stages.1")
    assert {label: w.kept for label, w in net.widths.items()} == settings.widths.listed
    assert net.width(0) == net.width("smallest")
    assert all(net.has_statistics(label) for label in net.widths)
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert [row["width"] for row in rows] == [0, 1, 2, "smallest", "largest"]
    code, out, err = run_command("eval", run, "--widths", "1,largest")
    assert code == 0, err
    assert "largest" in out


def test_the_recipe_that_a_run_keeps_goes_on_with_it(run, run_command):
    code, _, err = run_command("train", run / "recipe.yaml", "--run", run)
    assert code == 0, err


def test_a_run_with_joined_groups_is_not_pruned(run, refused):
    assert "elastic.join makes one number of several layers" in refused("prune", run, "--ratio", "0.5")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("elastic.join={all: 'stages.*'}", "'all' cannot join"),
        ("elastic.join={stem: 'steam.*'}", "unknown channel groups 'steam.*'"),
        ("widths.listed={0: [4, 4], 1: [6, 8]}", "a list of channels needs one number for each of the 3"),
        ("widths.options={narrowest: tiny}", "unknown width label 'tiny'"),
        ("widths.options={lowest: 0}", "unknown option of the width policy 'listed_sandwich' 'lowest'"),
        ("widths.random=-1", "widths.random = -1: expected greater than or equal to 0"),
        ("train.ema=0", "target 'ema_ensemble' learns from a moving average: set train.ema"),
        ("widths.policy=random", "train listed widths (widths.policy = 'listed' or 'listed_sandwich')"),
        (
            "widths={policy: random, listed: {smallest: 0.5, all: 1.0}}",
            "not listed: add it to widths.listed, or draw from listed widths (widths.policy = 'listed_sandwich')",
        ),
        ("model.name=DSResNet", "model 'DSResNet' cannot be built with"),
    ],
)
def test_a_mistake_is_one_line(recipe, refused, tmp_path, override, message):
    assert message in refused("train", recipe, override, "--run", tmp_path / "new")
