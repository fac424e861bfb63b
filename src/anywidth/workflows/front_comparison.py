"""The front of a search on the test images, beside uniform widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.files import replacing, write_json
from anywidth.interop.joslim import write_pareto
from anywidth.search import area_under, hypervolume
from anywidth.space.width import Width
from anywidth.train import distributed
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.classifier_run import ClassifierRun
from anywidth.workflows.naming import front_widths
from anywidth.workflows.pictures import draw_curves
from anywidth.workflows.reporter import SILENT, Reporter, spoken_once
from anywidth.workflows.run_directory import finished_classifier, open_run_directory
from anywidth.workflows.run_files import FRONT
from anywidth.workflows.task_options import EvaluationOptions

PARETO, TEXT, PARETO_PICTURE = "pareto.json", "pareto.txt", "pareto.png"
_UNIFORM = 8
_BEYOND = (1.0 + 1e-9, 1.0)  # the reference point: the widest network's cost, and every image wrong


@dataclass(frozen=True, kw_only=True)
class FrontComparison:
    """A front and uniform widths on the test images.

    Attributes:
        run: run directory, with `pareto.json`, `pareto.txt` and `pareto.png`.
        curves: "front" and "uniform" -> rows of results, the cheapest first.
        quality: curve -> `hypervolume`, and `area` under the errors.
        between: shares of the full MACs that both curves cover, which the areas are of.
    """

    run: Path
    curves: dict[str, list[dict[str, Any]]]
    quality: dict[str, dict[str, float]]
    between: tuple[float, float]


def compare_front(
    run: str | Path, front: str | Path | None = None, *, reporter: Reporter = SILENT
) -> FrontComparison | None:
    """Test the members of a front and uniform widths, all in one pass over the test images.

    Args:
        run: run directory of a classifier.
        front: file of the front; by default that of the run's search.
        reporter: is told of widths that are calibrated first.

    Returns:
        Results and qualities of both; None in all processes but the first.

    Raises:
        RecipeError: no finished run.
        WidthError: the run of a detector.
        CheckpointError: no front, or the front of another network.
    """
    reporter = spoken_once(reporter)
    directory = open_run_directory(run)
    front_path = Path(front) if front is not None else directory.path / FRONT
    directory.task.check_evaluation(EvaluationOptions(front=front_path))
    open_run = finished_classifier(directory.path)
    with distributed.processes(open_run.device):
        net = saved_classifier(open_run)
        widths_by_curve = curves(net, front_widths(front_path, net), open_run.recipe.narrowest)
        rows_by_curve = _rows_by_curve(open_run, net, widths_by_curve, reporter)
        return _write(open_run, rows_by_curve) if distributed.rank() == 0 else None


def _rows_by_curve(
    run: ClassifierRun, net: Elastic, widths_by_curve: dict[str, dict[str, Width]], reporter: Reporter
) -> dict[str, list[dict[str, Any]]]:
    # One pass over the images for both curves; they share their ends, which are measured once.
    every = list(dict.fromkeys(width for widths in widths_by_curve.values() for width in widths.values()))
    if missing := [width for width in every if not net.has_statistics(width)]:
        reporter.say(f"calibrating {len(missing)} widths")
        run.calibrate_(net, missing)
    row_by_width = dict(zip(every, run.results(net, every, ()), strict=True))
    return {
        name: sorted(
            ({**row_by_width[width], "width": label} for label, width in widths.items()),
            key=lambda row: row["macs"],
        )
        for name, widths in widths_by_curve.items()
    }


def _write(run: ClassifierRun, rows_by_curve: dict[str, list[dict[str, Any]]]) -> FrontComparison:
    """Write RUN/pareto.{json,txt,png}."""
    title, between = run.recipe.model.name, _common_range(rows_by_curve)
    quality = {name: qualities(rows, between) for name, rows in rows_by_curve.items()}
    write_json(
        run.path / PARETO, {"model": title, "between": between, "quality": quality, "curves": rows_by_curve}
    )
    front = rows_by_curve["front"]
    write_pareto(
        run.path / TEXT,
        [row["macs_share"] for row in front],
        [100 * row["accuracy"] for row in front],
        [100 * row["top5"] for row in front],
    )
    with replacing(run.path / PARETO_PICTURE) as temporary:
        draw_curves(rows_by_curve, quality, title=title, path=temporary)
    return FrontComparison(run=run.path, curves=rows_by_curve, quality=quality, between=between)


def curves(net: Elastic, members: Mapping[str, Width], low: float) -> dict[str, dict[str, Width]]:
    """Name of a curve -> label -> width: the members of a front, and uniform widths, from the narrowest to the widest."""
    ends = {"smallest": net.space.uniform(low), "widest": net.space.full}
    ratios = [low + (1 - low) * i / (_UNIFORM - 1) for i in range(_UNIFORM)]
    return {
        "front": _distinct({"smallest": ends["smallest"], **members, "widest": ends["widest"]}),
        "uniform": _distinct({f"{ratio:.3f}": net.space.uniform(ratio) for ratio in ratios}),
    }


def _distinct(widths: dict[str, Width]) -> dict[str, Width]:
    """The same width once, under its first name."""
    label_by_width: dict[Width, str] = {}
    for label, width in widths.items():
        label_by_width.setdefault(width, label)
    return {label: width for width, label in label_by_width.items()}


def qualities(rows: Sequence[dict[str, Any]], between: tuple[float, float]) -> dict[str, float]:
    """Hypervolume, and area under the errors, over shares of the widest network's MACs."""
    shares, errors = [r["macs_share"] for r in rows], [r["error"] for r in rows]
    return {
        "hypervolume": hypervolume(shares, errors, reference=_BEYOND),
        "area": area_under(shares, errors, between=between),
    }


def _common_range(rows_by_curve: dict[str, list[dict[str, Any]]]) -> tuple[float, float]:
    """The range of costs that all curves cover."""
    ends = [[row["macs_share"] for row in rows] for rows in rows_by_curve.values()]
    low, high = max(min(e) for e in ends), min(max(e) for e in ends)
    if not low < high:
        raise WidthError(f"pareto: the curves share no range of MACs (from {low:.3f} to {high:.3f})")
    return low, high
