"""Train a recipe, or go on with an interrupted training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anywidth.train import distributed
from anywidth.workflows.fitting import train_into
from anywidth.workflows.naming import device_named
from anywidth.workflows.pruning_passes import pass_rows, train_passes
from anywidth.workflows.reporter import SILENT, Reporter, spoken_once
from anywidth.workflows.run_directory import read_task
from anywidth.workflows.run_files import RESULTS, read_results
from anywidth.workflows.tables import TextTable


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """What a training left.

    Attributes:
        run: its directory.
        results: the contents of its `results.json`.
        passes: with `prune.passes`: the widest row of the first training, and of that after each pruning.
        tables: the rows of the results as text.
    """

    run: Path
    results: dict[str, Any]
    passes: tuple[dict[str, Any], ...]
    tables: tuple[TextTable, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per listed width."""
        return self.results["rows"]


def train(
    recipe: str | Path,
    *,
    run: str | Path | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> TrainingSummary:
    """Train a recipe into a run directory; the same call again goes on after an interruption.

    Args:
        recipe: YAML file, of a classifier or a detector.
        run: run directory; by default `runs/` and the recipe's name.
        overrides: changes of keys, like "train.epochs=10".
        reporter: is told what is done.

    Returns:
        The results, those of a training that was done before included.

    Raises:
        RecipeError: unknown keys or impossible values, or a directory of something else.
        DataError: for data that cannot be had.
        DivergenceError: numbers that are not finite.
    """
    reporter = spoken_once(reporter)
    recipe = Path(recipe)
    task = read_task(recipe, overrides)
    path = Path(run) if run is not None else Path("runs") / recipe.stem
    task.check_free(path)
    with distributed.processes(device_named(task.recipe.device)):
        train_into(path, task, reporter)
        folders = train_passes(path, task, reporter)
        distributed.barrier()
    # Every process reads what the first one wrote, so that all of them return the same.
    results = read_results(path / RESULTS)
    return TrainingSummary(
        run=path,
        results=results,
        passes=tuple(pass_rows(folders)),
        tables=task.tables(f"{path}", results["rows"]),
    )
