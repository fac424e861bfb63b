import json

import pytest

from anywidth.errors import CheckpointError, RecipeError
from anywidth.train import CHECKPOINT
from anywidth.workflows.run_files import (
    NET,
    RECIPE,
    RESULTS,
    check_finished,
    is_begun,
    is_new,
    read_results,
    refuse_changes,
)


def test_a_run_is_new_until_it_has_a_recipe(tmp_path):
    path = tmp_path / "run"
    assert is_new(path)
    path.mkdir()
    assert is_new(path)
    (path / RECIPE).touch()
    assert not is_new(path)


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RecipeError, match="is not empty and holds no run"):
        is_new(tmp_path)


@pytest.mark.parametrize("name", [CHECKPOINT, RESULTS])
def test_a_run_is_begun_where_something_was_trained(tmp_path, name):
    (tmp_path / RECIPE).touch()
    assert not is_begun(tmp_path)
    (tmp_path / name).touch()
    assert is_begun(tmp_path)


def test_the_first_missing_file_says_how_far_a_run_is(tmp_path):
    for name, state in ((RECIPE, "it is not a run directory"), (NET, "the training is not finished"), (RESULTS, "the training is not")):  # fmt: skip
        with pytest.raises(RecipeError, match=rf"has no {name}: {state}"):
            check_finished(tmp_path)
        (tmp_path / name).touch()
    check_finished(tmp_path)


def test_changes_are_named_with_both_values(tmp_path):
    refuse_changes(tmp_path, {})
    with pytest.raises(
        RecipeError, match=r"another recipe: seed was 1 and is 2, train\.lr was 0\.1 and is None;"
    ):
        refuse_changes(tmp_path, {"seed": (1, 2), "train.lr": (0.1, None)})


def test_results_are_rows(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"rows": [{"width": 1.0}], "seed": 3}))
    assert read_results(path) == {"rows": [{"width": 1.0}], "seed": 3}
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "no rows"),
        ('{"rows": []}', "no rows"),
        ('{"rows": 1}', "no rows"),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_results(path)
