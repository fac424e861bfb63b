import json

import pytest

from anywidth import workflows
from anywidth.errors import RecipeError


def test_a_summary_is_what_the_run_directory_holds(training):
    summary, recorder = training
    assert summary.results == json.loads((summary.run / "results.json").read_text())
    assert [row["width"] for row in summary.rows] == ["S", "M", "L", "XL"]
    (table,) = summary.tables
    assert [row["width"] for row in table.rows] == ["S", "M", "L", "XL"]
    assert table.rows[3]["accuracy"] == f"{100 * summary.rows[3]['accuracy']:.2f} %"
    assert [progress.step for progress in recorder.progress] == list(range(1, 1 + len(recorder.progress)))
    assert recorder.progress[-1].step == recorder.progress[-1].steps


def test_another_recipe_is_refused(recipe, overrides, run):
    with pytest.raises(RecipeError, match=r"holds a run of another recipe: train\.lr was 0\.1 and is 0\.2"):
        workflows.train(recipe, run=run, overrides=(*overrides, "train.lr=0.2"))
