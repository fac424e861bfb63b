"""anywidth eval: test accuracy at any widths."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import ConsoleReporter, print_table, print_tables
from anywidth.detect.metrics import Backend
from anywidth.errors import WidthError
from anywidth.workflows.tables import percent, si


def eval_command(
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
    has_metrics = metrics is not None or backend != "faster_coco_eval"
    if pareto:
        if has_metrics:
            raise WidthError("anywidth eval: --metrics and --backend are for detectors")
        if widths is not None or latency or json is not None:
            raise WidthError(
                "anywidth eval: --pareto decides the widths and the files itself: leave --widths, --latency and --json out"
            )
        comparison = workflows.compare_front(run, front, reporter=ConsoleReporter())
        if comparison is not None:
            _print_comparison(comparison)
        return
    evaluation = workflows.evaluate(
        run,
        widths,
        front=front,
        metrics=None if metrics is None else [m.strip() for m in metrics.split(",") if m.strip()],
        backend=backend,
        latency=latency,
        out=json,
        reporter=ConsoleReporter(),
    )
    print_tables(evaluation.tables)


def _print_comparison(comparison: workflows.FrontComparison) -> None:
    for name, rows in comparison.curves.items():
        lines = [
            {
                "width": row["width"],
                "of the full MACs": f"{row['macs_share']:.3f}",
                "MACs": si(row["macs"]),
                "params": si(row["params"]),
                "top-1": percent(row["accuracy"]),
                "top-5": percent(row["top5"]),
            }
            for row in rows
        ]
        print_table(f"{comparison.run}: {name}", lines)
    low, high = comparison.between
    print_table(
        f"{comparison.run}: errors from {low:.3f} to {high:.3f} of the MACs",
        [
            {
                "curve": name,
                "area under the curve": percent(quality["area"]),
                "hypervolume": f"{quality['hypervolume']:.4f}",
            }
            for name, quality in comparison.quality.items()
        ],
    )
