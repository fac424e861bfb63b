"""Widths of a finished run as files that run without this package."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anywidth import prune
from anywidth.workflows.classifier_export import pruned_export
from anywidth.workflows.recipe_task import Export
from anywidth.workflows.reporter import SILENT, Reporter, spoken_once
from anywidth.workflows.run_directory import open_run_directory
from anywidth.workflows.run_files import RECIPE
from anywidth.workflows.task_options import ExportOptions


@dataclass(frozen=True, kw_only=True)
class ExportedWidth:
    """A folder, and the files in it: weights, program, description."""

    folder: Path
    files: tuple[Path, ...]


def export(
    run: str | Path,
    width: str | float | None = None,
    *,
    front: str | Path | None = None,
    out: str | Path | None = None,
    targets: Sequence[str] = (),
    reporter: Reporter = SILENT,
) -> list[ExportedWidth]:
    """Write widths of a finished run as safetensors, a torch program and a description.

    Args:
        run: run directory, or a folder that a pruning wrote.
        width: ratio or label; a label of the front with `front`.
        front: classifiers: file of a Pareto front; without `width` all of it is written.
        out: folder to write; by default `export-WIDTH` in the run directory.
        targets: what is written besides weights and program: "onnx" (needs the extra `export`), or your own as
            "package.module:NAME", see `anywidth.export.export_target`.
        reporter: is told of widths that are calibrated first.

    Returns:
        One folder for each width.

    Raises:
        RecipeError: no finished run, or an unknown target.
        WidthError: no width, or one that does not exist.
        ExportError: a network that cannot be written in a format.
    """
    reporter = spoken_once(reporter)
    path, folder_asked = Path(run), None if out is None else Path(out)
    # A pruned network is compact already: it has one width, and no recipe of its own.
    if (path / prune.ABOUT).exists() and not (path / RECIPE).exists():
        return [_write_whole(folder_asked or path / "export", pruned_export(path, targets))]
    task = open_run_directory(path).task
    options = ExportOptions(width=width, front=None if front is None else Path(front), targets=tuple(targets))
    task.check_export(options)
    open_run = task.open(path)
    written: list[ExportedWidth] = []
    for item in task.exports(open_run, task.saved_net(open_run), options, reporter):
        # With a width `out` is its folder; without one, the folder of those of all members of the front.
        folder = (
            folder_asked
            if folder_asked and width is not None
            else (folder_asked or path) / f"export-{item.name}"
        )
        written.append(_write_whole(folder, item))
    return written


def _write_whole(folder: Path, exported: Export) -> ExportedWidth:
    """All files or none: they are made beside the folder and moved when the last one is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as temporary:
        exported.write(Path(temporary))
        folder.mkdir(exist_ok=True)
        files = sorted(Path(temporary).iterdir())
        for file in files:
            os.replace(file, folder / file.name)
    return ExportedWidth(folder=folder, files=tuple(folder / file.name for file in files))
