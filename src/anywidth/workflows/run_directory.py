"""A run directory, opened once: its path, and the task that its recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anywidth import recipe as recipes
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.recipe import Recipe
from anywidth.workflows.classification import ClassificationTask
from anywidth.workflows.classifier_run import ClassifierRun
from anywidth.workflows.detection import DetectionTask
from anywidth.workflows.recipe_task import RecipeTask
from anywidth.workflows.run_files import RECIPE, check_finished


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """The directory of a finished training.

    Attributes:
        path: of the directory.
        task: what was trained, and what can be done with it.
    """

    path: Path
    task: RecipeTask[Any]


def read_task(recipe: Path, overrides: Sequence[str] = ()) -> RecipeTask[Any]:
    """The task of a recipe's file.

    Args:
        recipe: YAML file.
        overrides: like "train.epochs=10".

    Raises:
        RecipeError: unknown keys, wrong types or impossible values.
    """
    # The sections of a recipe say what it trains: `detector` stands where classifiers have `model`.
    if recipes.is_detection(recipe):
        return DetectionTask(recipes.load_detection(recipe, overrides))
    return ClassificationTask(recipes.load(recipe, overrides))


def open_run_directory(path: str | Path) -> RunDirectory:
    """Open the directory of a finished training; no image is read.

    Raises:
        RecipeError: if there is no run, or it is not finished.
    """
    path = Path(path)
    check_finished(path)
    return RunDirectory(path=path, task=read_task(path / RECIPE))


def saved_net(run: str | Path) -> Elastic:
    """The trained network of a finished run, with its batch norms and listed widths, on the run's device.

    Raises:
        RecipeError: if there is no run, or it is not finished.
        DataError: for data that cannot be had; its images say what the network takes.
    """
    directory = open_run_directory(run)
    return directory.task.saved_net(directory.task.open(directory.path))


def finished_recipe(path: Path) -> Recipe:
    """The recipe of a finished training of a classifier, for what detectors do not have; reads no image.

    Raises:
        RecipeError: if there is no run, it is not finished, or it is of a detector.
    """
    # Pruning, search, calibration and gates read classes of images, which a detector has not.
    recipe = open_run_directory(path).task.recipe
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"{path} holds the run of a detector, which this verb does not know; it has train, eval, report and export"
        )
    return recipe


def finished_classifier(path: Path) -> ClassifierRun:
    """Open the directory of a finished classifier, with its images.

    Raises:
        RecipeError: if there is no run, it is not finished, or it is of a detector.
        DataError: for data that cannot be had.
    """
    return ClassificationTask(finished_recipe(path)).open(path)
