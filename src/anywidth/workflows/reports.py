"""Report on a finished run: a table, pictures and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anywidth.files import write_json
from anywidth.workflows.run_directory import open_run_directory
from anywidth.workflows.run_files import EVALUATION, RESULTS, read_results
from anywidth.workflows.tables import TextTable

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """The widths of a run.

    Attributes:
        run: run directory, with `report.json`.
        rows: one per width, the cheapest first.
        figures: the pictures.
        tables: the rows as text.
    """

    run: Path
    rows: list[dict[str, Any]]
    figures: tuple[Path, ...]
    tables: tuple[TextTable, ...]


def report(run: str | Path) -> RunReport:
    """Report on a finished run: its listed widths and those of its last evaluation.

    Args:
        run: run directory.

    Returns:
        Rows and pictures.

    Raises:
        RecipeError: no finished run.
        CheckpointError: damaged results.
    """
    directory = open_run_directory(run)
    path, task = directory.path, directory.task
    results = read_results(path / RESULTS)
    # By width, as text: an evaluation of a trained width takes the place of its row.
    rows = {str(row["width"]): row for row in results["rows"]}
    if (path / EVALUATION).exists():
        for row in read_results(path / EVALUATION)["rows"]:
            rows[str(row["width"])] = task.merged(rows.get(str(row["width"])), row)
    ordered = sorted(rows.values(), key=lambda row: row["macs"])
    figures = task.draw(path, results, ordered)
    write_json(path / REPORT, {**results, "rows": ordered, "figure": figures[0], "figures": figures})
    return RunReport(
        run=path,
        rows=ordered,
        figures=tuple(path / figure for figure in figures),
        tables=task.tables(f"{path}", ordered),
    )
