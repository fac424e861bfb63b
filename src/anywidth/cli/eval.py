"""anywidth eval: test accuracy at any widths."""

from pathlib import Path
from typing import Any

import torch
import typer

from anywidth.cli import names
from anywidth.cli.console import print_table, say
from anywidth.cli.detection import evaluate_detector
from anywidth.cli.pareto import curves, report_
from anywidth.cli.results import rows_as_text
from anywidth.cli.run import EVALUATION, FRONT, Run, example, finished_run, holds_detector, saved_net
from anywidth.cost.latency import measure_all
from anywidth.detect.metrics import Backend
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.files import write_json
from anywidth.train import distributed


def evaluate(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    widths: str = typer.Option(None, help="Ratios or labels, like 0.25,0.4,1.0, or `listed`."),
    front: Path = typer.Option(None, help="File of a Pareto front: its widths too."),
    pareto: bool = typer.Option(
        False,
        "--pareto",
        help="The front of the run's search (or of --front) beside uniform widths, with a picture.",
    ),
    latency: bool = typer.Option(False, "--latency", help="Measure the latency of one image too."),
    metrics: str = typer.Option(
        None, help="Detectors: some of bbox,segm,keypoints.  [default: all that the detector gives]"
    ),
    backend: Backend = typer.Option(
        "faster_coco_eval", help="Detectors: the package that measures, or pycocotools."
    ),
    json: Path = typer.Option(None, help="File for the results.  [default: RUN/eval.json]"),
) -> None:
    """Evaluate a finished RUN in one pass over the test images; a width without batch-norm statistics is calibrated first."""
    if holds_detector(run):
        if front is not None or pareto:
            raise WidthError("anywidth eval: fronts are of classifiers; a detector takes --widths")
        evaluate_detector(run, widths, metrics, backend, latency=latency, json=json)
        return
    if metrics is not None or backend != "faster_coco_eval":
        raise WidthError("anywidth eval: --metrics and --backend are for detectors")
    if widths is None and front is None and not pareto:
        raise WidthError(
            "anywidth eval: say which widths: --widths 0.25,0.5,1.0, --widths listed, --front FILE, or --pareto"
        )
    if pareto and (widths is not None or latency or json is not None):
        raise WidthError(
            "anywidth eval: --pareto decides the widths and the files itself: leave --widths, --latency and --json out"
        )
    directory = finished_run(run)
    with distributed.processes(directory.device):
        net = saved_net(directory)
        listed = list(net.widths)
        if pareto:
            _compare(directory, net, front or run / FRONT)
            return
        selected = _wanted(net, widths, front)
        if missing := [width for width in selected if not net.has_statistics(width)]:
            say(f"calibrating {', '.join(map(str, missing))}")
            directory.calibrate_(net, missing)
        rows = directory.results(net, selected, listed)
        if distributed.rank() != 0:
            return
    if latency:
        _measure_(rows, net, selected, example(directory))
    write_json(json or run / EVALUATION, {"model": directory.recipe.model.name, "rows": rows})
    print_table(f"{run}", rows_as_text(rows))


def _compare(run: Run, net: Elastic, front: Path) -> None:
    """Test the members of a front and uniform widths, all in one pass."""
    widths_by_curve = curves(net, names.front(front, net), run.recipe.narrowest)
    every = list(dict.fromkeys(width for widths in widths_by_curve.values() for width in widths.values()))
    if missing := [width for width in every if not net.has_statistics(width)]:
        say(f"calibrating {len(missing)} widths")
        run.calibrate_(net, missing)
    rows = dict(zip(every, run.results(net, every, ()), strict=True))
    if distributed.rank() != 0:
        return
    rows_by_curve = {
        name: sorted(
            ({**rows[w], "width": label} for label, w in widths.items()), key=lambda row: row["macs"]
        )
        for name, widths in widths_by_curve.items()
    }
    report_(run.path, run.recipe.model.name, rows_by_curve)


def _wanted(net: Elastic, text: str | None, front: Path | None) -> list[Any]:
    """Labels and ratios; the members of a front are listed under their labels."""
    selected: list[Any] = []
    if text is not None:
        selected += list(net.widths) if text == "listed" else names.widths(text)
    if front is not None:
        for name, width in names.front(front, net).items():
            label = f"{front.stem}:{name}"
            net.norms.overrides(width)  # with switchable norms only trained widths exist
            net.list_width_(label, width)
            selected.append(label)
    return list(dict.fromkeys(selected))


@torch.inference_mode()
def _measure_(rows: list[dict[str, Any]], net: Elastic, widths: list[Any], x: torch.Tensor) -> None:
    """Seconds of the extracted networks for one image, all timed in turns."""
    image = x.to(next(net.parameters()).device)
    small = {str(i): net.extract(width).eval() for i, width in enumerate(widths)}
    times = measure_all({name: (lambda m=module: m(image)) for name, module in small.items()}, repeats=20)
    for i, row in enumerate(rows):
        row["latency"] = times[str(i)].median
