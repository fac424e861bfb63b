"""Quality of a finished run on the test images, at any widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anywidth.detect.metrics import Backend
from anywidth.files import write_json
from anywidth.train import distributed
from anywidth.workflows.reporter import SILENT, Reporter, spoken_once
from anywidth.workflows.run_directory import open_run_directory
from anywidth.workflows.run_files import EVALUATION
from anywidth.workflows.tables import TextTable
from anywidth.workflows.task_options import EvaluationOptions


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What widths do on the test images.

    Attributes:
        run: run directory.
        rows: one per width; complete in the first process only.
        tables: the same as text.
    """

    run: Path
    rows: list[dict[str, Any]]
    tables: tuple[TextTable, ...]


def evaluate(
    run: str | Path,
    widths: Sequence[float | str] | str | None = None,
    *,
    front: str | Path | None = None,
    metrics: Sequence[str] | None = None,
    backend: Backend = "faster_coco_eval",
    latency: bool = False,
    out: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Evaluate a finished run in one pass over the test images; a width without batch-norm statistics is calibrated first.

    Args:
        run: run directory.
        widths: ratios or labels, text like "0.3,large", or "listed".
        front: classifiers: file of a Pareto front, whose widths are evaluated too.
        metrics: detectors: some of bbox, segm and keypoints; by default all that the detector gives.
        backend: detectors: the package that measures, "faster_coco_eval" or "pycocotools".
        latency: measure the latency of one image, too.
        out: file for the rows; by default `eval.json` in the run directory.
        reporter: is told of widths that are calibrated first.

    Returns:
        One row per width.

    Raises:
        RecipeError: no finished run.
        WidthError: no widths, or some that do not exist.
        DataError: for data that cannot be had.
    """
    reporter = spoken_once(reporter)
    directory = open_run_directory(run)
    path, task = directory.path, directory.task
    options = EvaluationOptions(
        widths=widths,
        front=None if front is None else Path(front),
        metrics=metrics,
        backend=backend,
        latency=latency,
    )
    task.check_evaluation(options)
    open_run = task.open(path)
    with distributed.processes(open_run.device):
        net = task.saved_net(open_run)
        listed = list(net.widths)
        selected = task.calibrated_widths_(open_run, net, options, reporter)
        rows = task.rows(open_run, net, selected, listed, options)
        if distributed.rank() != 0:
            return Evaluation(run=path, rows=rows, tables=())
    # Measured after the processes have parted: one that waits for another would be timed with it.
    if latency:
        for row, seconds in zip(rows, task.latencies(open_run, net, selected), strict=True):
            row["latency"] = seconds
    write_json(Path(out) if out is not None else path / EVALUATION, {"model": task.model_name, "rows": rows})
    return Evaluation(run=path, rows=rows, tables=task.tables(f"{path}", rows))
