import dataclasses

import pytest

from anywidth.workflows.classification import ClassificationTask
from anywidth.workflows.detection import DetectionTask
from anywidth.workflows.recipe_task import Export, RecipeTask
from anywidth.workflows.task_options import EvaluationOptions, ExportOptions


@pytest.mark.parametrize("kind", [ClassificationTask, DetectionTask])
def test_a_task_does_everything_that_is_asked_of_one(kind):
    assert kind("a recipe").recipe == "a recipe"


def test_a_task_that_leaves_something_out_cannot_be_made():
    class WithoutReport(ClassificationTask):
        draw = RecipeTask.draw

    with pytest.raises(TypeError, match=r"WithoutReport.*abstract method '?draw"):
        WithoutReport("a recipe")


@pytest.mark.parametrize("options", [EvaluationOptions(), ExportOptions(), Export(name="S", write=print)])
def test_options_do_not_change(options):
    name = dataclasses.fields(options)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, name, None)
    with pytest.raises(TypeError, match="positional"):
        type(options)("S")
