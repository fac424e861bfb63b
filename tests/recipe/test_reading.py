from pathlib import Path

import pytest

from anywidth import recipe as recipes
from anywidth.errors import RecipeError
from anywidth.train import FitConfig

ROOT = Path(__file__).parents[2]

TEXT = """\
model:
  name: SmallResNet
  kwargs: {channels: [8, 16]}
data: {name: digits}
widths:
  listed: [0.25, 1.0]
train:
  epochs: 3
  lr: 1e-1
"""


def write(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, *overrides: str, text: str = TEXT) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.load(write(tmp_path, text), overrides)
    return str(caught.value)


def test_values_defaults_and_overrides(tmp_path):
    overrides = ["train.epochs=7", "model.kwargs.blocks=2", "elastic.freeze=[fc, 'stages.*']"]
    recipe = recipes.load(write(tmp_path), overrides)
    assert recipe.train == FitConfig(epochs=7, lr=0.1)
    assert recipe.model.kwargs == {"channels": [8, 16], "blocks": 2}
    assert recipe.elastic.freeze == ("fc", "stages.*")
    assert (recipe.widths.policy, recipe.widths.min, recipe.widths.max, recipe.widths.random) == (
        "sandwich",
        0.25,
        1.0,
        2,
    )
    assert (recipe.seed, recipe.device, recipe.threads) == (0, "auto", None)


def test_a_misspelt_key_is_named_before_the_missing_one(tmp_path):
    message = refusal(tmp_path, text=TEXT.replace("epochs: 3", "epoch: 3"))
    assert "unknown key 'train.epoch'; did you mean 'train.epochs'? (and 1 more)" in message


def test_dump_is_the_inverse_of_load(tmp_path):
    recipe = recipes.load(write(tmp_path), ["threads=2", "train.lr=0.030000000000000002"])
    assert recipes.load(write(tmp_path, recipes.dump(recipe))) == recipe


def test_labels_stay_whole_numbers_and_words(tmp_path):
    recipe = recipes.load(write(tmp_path), ["widths.listed={0: 0.5, 0.25: {conv: 3}, largest: [8, 16]}"])
    again = recipes.load(write(tmp_path, recipes.dump(recipe)))
    assert [(type(label), label) for label in again.widths.listed] == [
        (int, 0),
        (float, 0.25),
        (str, "largest"),
    ]
    assert again == recipe


def test_joined_groups_are_not_pruned(tmp_path):
    text = TEXT + "elastic: {join: {all: 'stages.*'}}\n"
    assert recipes.load(write(tmp_path, text)).elastic.join == {"all": "stages.*"}
    for override in ("prune={ratio: 0.5}", "model.pruned=runs/a/pruned"):
        assert "elastic.join makes one number of several layers" in refusal(tmp_path, override, text=text)


def test_differences_name_the_keys(tmp_path):
    path = write(tmp_path)
    old, new = recipes.load(path), recipes.load(path, ["train.lr=0.2", "model.kwargs.blocks=2"])
    assert recipes.differences(old, new) == {"train.lr": (0.1, 0.2), "model.kwargs.blocks": (None, 2)}
    assert recipes.differences(old, old) == {}


def test_every_recipe_of_the_project_loads():
    paths = sorted((ROOT / "recipes").glob("*.yaml"))
    assert paths
    for path in paths:
        if recipes.is_detection(path):
            assert recipes.load_detection(path).detector.name
        else:
            assert recipes.load(path).model.name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("  epoch: 3", "a.yaml, line 10: unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("epochs: 3", "a.yaml, line 10: unknown key 'epochs'; did you mean 'train.epochs'?"),
        ("  zzz: 3", "unknown key 'train.zzz'; known here: train.epochs, train.lr, train.optimizer"),
        (
            "  schedule: step",
            "line 10: train.schedule = 'step': expected 'cosine', 'linear', 'constant', 'multistep' or 'exponential'",
        ),
        ("  dropout_on: narrowest", "line 10: train.dropout_on = 'narrowest': expected 'all' or 'widest'"),
        ("  skip_zero_gradients: 2", "line 10: train.skip_zero_gradients = 2: expected a valid boolean"),
        ("  nesterov: 3", "line 10: train.nesterov = 3: expected a valid boolean"),
        ("  momentum: fast", "line 10: train.momentum = 'fast': expected a valid number"),
        ("  lr: 3", "line 10: the key 'train.lr' stands twice, first in"),
        ("  warmup_epochs: 3", "line 7: train: warmup_epochs = 3.0: expected from 0 to below 3 epochs"),
        ("seed: -1", "line 10: seed = -1: expected greater than or equal to 0"),
        ("device: tpu", "line 10: device = 'tpu': expected 'auto', 'cpu' or 'cuda'"),
        (
            "elastic: {norm: switchable}",
            "expected widths.policy = 'listed' or 'listed_sandwich', got 'sandwich'",
        ),
        (": :", "line 10: is not YAML"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    assert message in refusal(tmp_path, text=TEXT + line + "\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.epochs=many",
            "override 'train.epochs=many': train.epochs = 'many': expected a valid integer",
        ),
        ("widths.listed=[0.5, 2]", "widths.listed.1 = 2: expected less than or equal to 1"),
        ("widths.listed=[0]", "widths.listed.0 = 0: expected greater than 0"),
        ("widths.listed=[]", "widths.listed"),
        ("widths.listed={a: 2.0}", "widths.listed.a = 2.0: expected less than or equal to 1"),
        ("widths.listed={a: [4, 0]}", "widths.listed.a.1 = 0: expected greater than or equal to 1"),
        ("widths.listed={a: {conv: 1.5}}", "widths.listed.a.conv = 1.5: expected less than or equal to 1"),
        ("widths.listed={a: {conv: wide}}", "widths.listed.a.conv = 'wide': expected a valid integer"),
        ("widths.min=1.0", "widths: expected min < max, got min=1.0, max=1.0"),
        ("data.name=cifar", "data.name = 'cifar': expected 'digits', 'cifar10'"),
        ("data.nam=digits", "unknown key 'data.nam'; did you mean 'data.name'?"),
        ("train.epochs", "override 'train.epochs': expected key=value, for example train.epochs=10"),
        ("train..x=1", "expected key=value"),
        ("train.lr.x=1", "'lr' is a value, not a section"),
        ("train.lr=[", "override 'train.lr=[': the value is not YAML"),
        ("train=3", "train = 3: expected a dictionary"),
    ],
)
def test_a_wrong_override_is_named(tmp_path, override, message):
    assert message in refusal(tmp_path, override)


def test_missing_keys_are_counted(tmp_path):
    message = refusal(tmp_path, text="model: {name: SmallResNet}\n")
    assert "the key 'data' is missing (and 2 more)" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "expected `key: value` lines, got NoneType"), ("- 1\n", "got list")],
)
def test_a_file_that_is_no_mapping(tmp_path, text, message):
    assert message in refusal(tmp_path, text=text)


def test_a_binary_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is not a text file"):
        recipes.load(path)


def test_a_file_of_control_characters(tmp_path):
    assert "is not YAML" in refusal(tmp_path, text="a: \x00\n")


def test_the_old_name_of_a_key_is_understood_with_a_line_that_says_the_new_one(tmp_path, caplog):
    text = (ROOT / "recipes" / "digits.yaml").read_text()
    assert "  policy: sandwich\n" in text
    path = tmp_path / "old.yaml"
    path.write_text(text.replace("  policy: sandwich\n", "  rule: min_max\n"))
    assert recipes.load(path).widths.policy == "min_max"
    line = next(i for i, row in enumerate(path.read_text().splitlines(), 1) if "rule:" in row)
    assert caplog.messages == [f"{path}, line {line}: widths.rule is called widths.policy now"]
    assert recipes.load(path, ["widths.listed=[1.0]"]).widths.policy == "min_max"
    new = ROOT / "recipes" / "digits.yaml"
    assert recipes.load(new).widths.policy == "sandwich"
    assert recipes.load(new, ["widths.rule=listed"]).widths.policy == "listed"
    path.write_text(text.replace("  policy: sandwich\n", "  policy: sandwich\n  rule: min_max\n"))
    with pytest.raises(RecipeError, match=r"widths.rule is the old name of widths.policy, which is set too"):
        recipes.load(path)


def test_a_key_in_the_wrong_section_is_answered_with_the_right_one():
    with pytest.raises(RecipeError, match=r"unknown key 'train.policy'; did you mean 'widths.policy'\?"):
        recipes.load(ROOT / "recipes" / "digits.yaml", ["train.policy=sandwich"])


def test_an_override_fills_a_section_that_was_written_as_null(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT + "gate: null\n")
    assert recipes.load(path).gate is None
    gate = recipes.load(path, ["gate.places=[{at: stages.0}]", "gate.widths=[0.25, 1.0]"]).gate
    assert gate is not None
    assert gate.widths == (0.25, 1.0)
