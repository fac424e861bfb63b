import pytest

from anywidth.detect import DetectionLoss
from anywidth.errors import RecipeError, WidthError
from anywidth.recipe import DetectionRecipe
from anywidth.workflows.detection import DetectionTask
from anywidth.workflows.run_directory import read_task
from anywidth.workflows.run_files import RECIPE, RESULTS
from anywidth.workflows.task_options import EvaluationOptions, ExportOptions

CONTENTS = {
    "detector": {"name": "retinanet_resnet50_fpn"},
    "data": {"root": "coco"},
    "train": {"epochs": 2, "lr": 0.1},
    "losses": {"distill": 0.5},
}


def task(**sections) -> DetectionTask:
    return DetectionTask(DetectionRecipe.model_validate({**CONTENTS, **sections}))


def test_a_claimed_directory_is_read_as_the_run_of_a_detector(tmp_path):
    task().claim(tmp_path / "run")
    assert read_task(tmp_path / "run" / RECIPE) == task()


def test_losses_and_settings_are_those_of_the_recipe():
    assert task().losses() == DetectionLoss(distill=0.5)
    assert (task().fit_config().epochs, task().model_name) == (2, "retinanet_resnet50_fpn")


def test_a_run_goes_on_with_what_changes_no_weight(tmp_path):
    task().check_free(tmp_path / "run")
    task().claim(tmp_path / "run")
    task(seed=3).check_free(tmp_path / "run")  # nothing was trained yet
    (tmp_path / "run" / RESULTS).touch()
    task(data={"root": "elsewhere", "workers": 3}).check_free(tmp_path / "run")
    with pytest.raises(RecipeError, match="another recipe: seed was 0 and is 3"):
        task(seed=3).check_free(tmp_path / "run")


def test_the_run_of_a_classifier_is_not_free(run):
    with pytest.raises(RecipeError, match="holds the run of a classifier"):
        task().check_free(run)


def test_options_of_classifiers_and_none_at_all_are_refused(tmp_path):
    for options, message in (
        (
            EvaluationOptions(front=tmp_path, widths="listed"),
            "fronts are of classifiers; a detector takes --widths",
        ),
        (EvaluationOptions(), "say which widths: --widths"),
    ):
        with pytest.raises(WidthError, match=message):
            task().check_evaluation(options)
    for options, message in (
        (ExportOptions(front=tmp_path, width=0.5), "fronts are of classifiers; a detector takes --width"),
        (ExportOptions(), "say which width: --width 0.5"),
    ):
        with pytest.raises(WidthError, match=message):
            task().check_export(options)
    task().check_evaluation(EvaluationOptions(widths="0.5"))
    task().check_export(ExportOptions(width=0.5))


def test_an_evaluation_keeps_what_it_did_not_measure():
    trained = {"width": 0.5, "metrics": {"bbox": {"AP": 0.1}, "segm": {"AP": 0.2}}}
    evaluated = {"width": 0.5, "metrics": {"bbox": {"AP": 0.3}}, "latency": 1.0}
    assert task().merged(trained, evaluated) == {
        "width": 0.5, "metrics": {"bbox": {"AP": 0.3}, "segm": {"AP": 0.2}}, "latency": 1.0
    }  # fmt: skip
    assert task().merged(None, evaluated) == evaluated
