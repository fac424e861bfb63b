"""What a task of a recipe - classification, detection - does its own way. Everything else is the same for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from anywidth import data
from anywidth.elastic import Elastic
from anywidth.train import Draw, FitConfig
from anywidth.train.engine import Task as TrainingTask
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.tables import TextTable
from anywidth.workflows.task_options import EvaluationOptions, ExportOptions


@dataclass(frozen=True, kw_only=True)
class Export:
    """A stand-alone network to write.

    Attributes:
        name: of the width, for its folder and for messages.
        write: writes all files into an empty folder.
    """

    name: str
    write: Callable[[Path], None]


class OpenRun(Protocol):
    """A run whose images and device are there."""

    @property
    def path(self) -> Path: ...
    @property
    def recipe(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...

    def train_batches(self, epoch: int, skipped_steps: int) -> data.Batches:
        """This process's share of the training images of an epoch, without its first steps."""
        ...

    def calibrate_(self, net: Elastic, widths: Sequence[Any]) -> None:
        """Give `widths` their batch-norm statistics, always from the same training images, dealt to all processes."""
        ...


RunT = TypeVar("RunT", bound=OpenRun)


@dataclass(frozen=True)
class RecipeTask(ABC, Generic[RunT]):
    """A recipe and what its run directory can do. No image is read, and no device asked, before `open`."""

    recipe: Any

    @property
    @abstractmethod
    def model_name(self) -> str:
        """Name of the network, as in the recipe."""

    # Runs

    @abstractmethod
    def check_free(self, path: Path) -> None:
        """Refuse to train where that would lose something.

        Raises:
            RecipeError: if `path` holds other files than a run, or the checkpoint or results of another recipe.
        """

    @abstractmethod
    def open(self, path: Path) -> RunT:
        """Prepare data, device and threads; touches no file.

        Raises:
            RecipeError: for a device that cannot be had.
            DataError: for data that cannot be had.
        """

    @abstractmethod
    def claim(self, path: Path) -> None:
        """Make the run directory, with all that the run needs to stand on its own."""

    # Networks

    @abstractmethod
    def new_net(self, run: RunT, reporter: Reporter) -> Elastic:
        """The elastic network of the recipe, its weights fixed by its seed or read from a file."""

    @abstractmethod
    def saved_net(self, run: RunT) -> Elastic:
        """The trained network of a finished run."""

    # Training

    @abstractmethod
    def prepare_device_(self, device: torch.device) -> None:
        """What a GPU needs before a training."""

    @abstractmethod
    def policy(self, run: RunT, net: Elastic) -> Draw:
        """What the recipe trains in each step."""

    @abstractmethod
    def fit_config(self) -> FitConfig:
        """The settings of the training."""

    @abstractmethod
    def losses(self) -> TrainingTask | None:
        """What a step learns, where it is not the classes of images."""

    @abstractmethod
    def scores(self, run: RunT, net: Elastic) -> dict[str, float]:
        """Label -> quality of the listed widths, for choosing an epoch; the network stays as it is."""

    @abstractmethod
    def finish_(self, run: RunT, net: Elastic, draw: Draw) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Calibrate what was trained; the rows of results, and further facts about the network."""

    @abstractmethod
    def data_facts(self, run: RunT) -> dict[str, Any]:
        """What the results say about the images."""

    # Evaluation, export, report

    @abstractmethod
    def check_evaluation(self, options: EvaluationOptions) -> None:
        """
        Raises:
            WidthError: options that say nothing, or that are of another task.
        """

    @abstractmethod
    def calibrated_widths_(
        self, run: RunT, net: Elastic, options: EvaluationOptions, reporter: Reporter
    ) -> list[Any]:
        """The widths that the options name, all of them with batch-norm statistics."""

    @abstractmethod
    def rows(
        self,
        run: RunT,
        net: Elastic,
        widths: Sequence[Any],
        listed: Sequence[Any],
        options: EvaluationOptions,
    ) -> list[dict[str, Any]]:
        """One row per width: its quality on the test images, and its cost; detectors write what they find beside."""

    @abstractmethod
    def latencies(self, run: RunT, net: Elastic, widths: Sequence[Any]) -> list[float]:
        """Seconds of the extracted networks for one image, all timed in turns."""

    @abstractmethod
    def exports(
        self, run: RunT, net: Elastic, options: ExportOptions, reporter: Reporter
    ) -> Iterator[Export]:
        """What the options name, one after the other, so that few networks are alive."""

    @abstractmethod
    def check_export(self, options: ExportOptions) -> None:
        """
        Raises:
            WidthError: options that say nothing, or that are of another task.
        """

    @abstractmethod
    def merged(self, row: dict[str, Any] | None, evaluated: dict[str, Any]) -> dict[str, Any]:
        """The row of a width in a report: that of the training, and that of the last evaluation."""

    @abstractmethod
    def draw(self, path: Path, results: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
        """Draw the pictures of a report into the run directory; their names."""

    @abstractmethod
    def tables(self, title: str, rows: Sequence[dict[str, Any]]) -> tuple[TextTable, ...]:
        """Rows of results as text."""
