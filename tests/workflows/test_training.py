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


def test_a_finished_training_is_read(training, recipe, overrides, run, recorder, capfd):
    summary = workflows.train(recipe, run=str(run), overrides=overrides, reporter=recorder)
    assert summary.results == training[0].results
    assert recorder.messages == [f"{run}: already trained; these are its results"]
    workflows.train(recipe, run=run, overrides=overrides)
    assert capfd.readouterr() == ("", "")


def test_another_recipe_is_refused(recipe, overrides, run):
    with pytest.raises(RecipeError, match=r"holds a run of another recipe: train\.lr was 0\.1 and is 0\.2"):
        workflows.train(recipe, run=run, overrides=(*overrides, "train.lr=0.2"))


def test_passes_prune_and_train_again(recipe, tmp_path, recorder):
    overrides = (
        "train.epochs=1", "train.warmup_epochs=0", "train.ema=0", "train.target=labels", "widths.policy=listed",
        "widths.listed=[1.0]", "model.kwargs={channels: [8, 16]}", "prune={ratio: 0.3, passes: 1}", "gate=null",
    )  # fmt: skip
    summary = workflows.train(recipe, run=tmp_path / "run", overrides=overrides, reporter=recorder)
    before, after = summary.passes
    pruned = json.loads((tmp_path / "run" / "pass-1" / "results.json").read_text())["rows"][-1]
    assert (after["macs"], after["accuracy"]) == (pruned["macs"], pruned["accuracy"])
    assert before["macs_share"] == 1
    assert after["macs_share"] == pruned["macs"] / summary.rows[-1]["macs"] < 1
    (title,) = recorder.titles
    assert title.startswith(f"{tmp_path / 'run' / 'pruned'}: ")
