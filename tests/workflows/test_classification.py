import shutil

import pytest

from anywidth import workflows
from anywidth.errors import RecipeError, WidthError
from anywidth.workflows.classification import FIGURE, SCALES, ClassificationTask
from anywidth.workflows.run_directory import read_task
from anywidth.workflows.run_files import CHECKPOINT, RECIPE, RESULTS
from anywidth.workflows.task_options import EvaluationOptions, ExportOptions


@pytest.fixture
def task(recipe, overrides) -> ClassificationTask:
    return read_task(recipe, overrides)


def test_a_run_may_go_on_with_what_changes_no_weight(task, recipe, overrides, run):
    task.check_free(run)
    harmless = read_task(recipe, (*overrides, "data.workers=2", "train.log_every=7", "gate=null"))
    harmless.check_free(run)


def test_a_run_of_another_recipe_is_not_free(recipe, overrides, run):
    other = read_task(recipe, (*overrides, "seed=5"))
    with pytest.raises(RecipeError, match="another recipe: seed was 0 and is 5"):
        other.check_free(run)
    for name in (RESULTS, CHECKPOINT):
        (run / name).unlink(missing_ok=True)
    other.check_free(run)  # nothing was trained that would be lost


def test_a_claimed_directory_holds_the_recipe(task, tmp_path):
    task.claim(tmp_path / "run")
    assert read_task(tmp_path / "run" / RECIPE) == task
    assert task.model_name == "SmallResNet"


def test_weights_that_were_read_keep_their_scales(recipe, overrides):
    sparse = (
        "train.sparsity={l1: 0.1, init: 0.5}",
        "train.ema=0",
        "train.target=labels",
        "widths.policy=listed",
    )
    fresh = read_task(recipe, (*overrides, *sparse))
    assert fresh.fit_config().sparsity.init == 0.5
    read = read_task(recipe, (*overrides, *sparse, "model.weights=a.pt"))
    assert read.fit_config().sparsity.init == 0.0
    assert read.fit_config().sparsity.l1 == 0.1


def test_options_of_detectors_and_none_at_all_are_refused(task):
    for options, message in (
        (EvaluationOptions(metrics=["bbox"], widths="listed"), "are for detectors"),
        (EvaluationOptions(backend="pycocotools", widths="listed"), "are for detectors"),
        (EvaluationOptions(), "say which widths"),
    ):
        with pytest.raises(WidthError, match=message):
            task.check_evaluation(options)
    task.check_evaluation(EvaluationOptions(widths="listed"))
    with pytest.raises(WidthError, match="say which width"):
        task.check_export(ExportOptions())


def test_widths_are_named_once_and_calibrated_where_they_have_no_statistics(task, run, recorder):
    open_run = task.open(run)
    net = task.saved_net(open_run)
    options = EvaluationOptions(widths="S,0.3,S")
    assert task.calibrated_widths_(open_run, net, options, recorder) == ["S", 0.3]
    assert recorder.messages == ["calibrating 0.3"]
    assert net.has_statistics(0.3)


def test_a_report_has_a_picture_of_scales_where_there_are_some(task, training, tmp_path):
    results = training[0].results
    assert task.draw(tmp_path, results, results["rows"]) == [FIGURE, SCALES]
    assert task.draw(tmp_path, results | {"scales": None}, results["rows"]) == [FIGURE]
    assert task.merged({"width": "S", "loss": 1}, {"width": "S"}) == {"width": "S"}


def test_a_pruning_of_its_own_may_not_be_exchanged(recipe, overrides, run, tmp_path):
    pruned = [workflows.prune(run, workflows.PruneOptions(ratio=ratio), out=tmp_path / str(ratio)).folder for ratio in (0.2, 0.4)]  # fmt: skip
    changes = (
        "train.ema=0",
        "train.target=labels",
        "widths.policy=listed",
        "widths.listed=[1.0]",
        "gate=null",
    )
    first, second = (read_task(recipe, (*overrides, *changes, f"model.pruned={path}")) for path in pruned)
    first.claim(tmp_path / "run")
    (tmp_path / "run" / RESULTS).touch()
    first.check_free(tmp_path / "run")
    with pytest.raises(RecipeError, match="holds a run of another pruning than"):
        second.check_free(tmp_path / "run")
    shutil.rmtree(pruned[0])
    first.check_free(tmp_path / "run")  # the run stands on its own
