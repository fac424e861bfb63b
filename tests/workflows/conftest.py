"""One short training on the digits, which every test reads; tests that write have a copy."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from anywidth import workflows
from anywidth.train import Progress

RECIPE = Path(__file__).parents[2] / "recipes" / "digits_gated.yaml"
OVERRIDES = ("train.epochs=2", "train.warmup_epochs=0", "calibration.batches=4", "gate.epochs=1")


class Recorder:
    """Keeps what workflows say."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.titles: list[str] = []
        self.progress: list[Progress] = []

    def say(self, text: str) -> None:
        self.messages.append(text)

    def show(self, table: workflows.TextTable) -> None:
        self.titles.append(table.title)

    def training(self) -> AbstractContextManager[Callable[[Progress], None]]:
        return nullcontext(self.progress.append)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def recipe() -> Path:
    return RECIPE


@pytest.fixture(scope="session")
def overrides() -> tuple[str, ...]:
    return OVERRIDES


@pytest.fixture(scope="session")
def training(recipe, tmp_path_factory) -> tuple[workflows.TrainingSummary, Recorder]:
    recorder = Recorder()
    path = tmp_path_factory.mktemp("workflows") / "run"
    return workflows.train(recipe, run=path, overrides=OVERRIDES, reporter=recorder), recorder


@pytest.fixture
def run(training, tmp_path) -> Path:
    return shutil.copytree(training[0].run, tmp_path / "run")


@pytest.fixture
def rows_in() -> Callable[[Path], list[dict]]:
    """The rows of a file with results."""
    return lambda path: json.loads(path.read_text())["rows"]
