"""anywidth report: accuracy against MACs, as a table, a picture and JSON."""

import math
from pathlib import Path
from typing import Any

import typer

from anywidth.cli.console import print_table, si
from anywidth.cli.detection import report_detector
from anywidth.cli.results import rows_as_text
from anywidth.cli.run import EVALUATION, RESULTS, finished_recipe, holds_detector, read_results
from anywidth.files import replacing, write_json

FIGURE, REPORT, SCALES = "report.png", "report.json", "scales.png"


def report(run: Path = typer.Argument(metavar="RUN", help="Run directory.")) -> None:
    """Report on a finished RUN: its listed widths and those of its last `anywidth eval`."""
    if holds_detector(run):
        report_detector(run)
        return
    finished_recipe(run)
    results = read_results(run / RESULTS)
    rows = {str(row["width"]): row for row in results["rows"]}
    if (run / EVALUATION).exists():
        rows |= {str(row["width"]): row for row in read_results(run / EVALUATION)["rows"]}
    ordered = sorted(rows.values(), key=lambda row: row["macs"])
    with replacing(run / FIGURE) as temporary:
        draw(ordered, title=f"{results['model']}: one set of weights", path=temporary)
    figures = [FIGURE]
    if isinstance(results.get("scales"), dict):
        with replacing(run / SCALES) as temporary:
            draw_scales(results["scales"], title=f"{results['model']}: batch-norm scales", path=temporary)
        figures.append(SCALES)
    write_json(run / REPORT, {**results, "rows": ordered, "figure": FIGURE, "figures": figures})
    print_table(f"{run}", rows_as_text(ordered))
    for figure in figures:
        typer.echo(run / figure)


def draw_scales(scales: dict[str, Any], *, title: str, path: Path) -> None:
    """How many batch-norm scales are how large, on a logarithmic count: what can be pruned stands at the left."""
    from matplotlib.figure import Figure

    counts, top = scales["histogram"]["counts"], scales["histogram"]["top"]
    figure = Figure(figsize=(7, 3.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    step = top / len(counts)
    axes.bar([(i + 0.5) * step for i in range(len(counts))], counts, width=0.9 * step, color="C0")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set(
        xlabel="absolute value of the scale",
        ylabel="channels",
        title=f"{title}; {100 * scales['near_zero']:.1f} % are below 0.01",
    )
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, format="png")


def _standard_error(row: dict[str, Any]) -> float:
    return math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["images"])


def draw(rows: list[dict[str, Any]], *, title: str, path: Path) -> None:
    """Test accuracy against MACs, one labelled point per width; filled where the width is listed.

    The bars are one standard error of a proportion, sqrt(p (1 - p) / images): what chance alone does.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    macs, accuracy = [row["macs"] for row in rows], [100 * row["accuracy"] for row in rows]
    axes.errorbar(
        macs, accuracy, [100 * _standard_error(row) for row in rows], color="0.7", capsize=3, zorder=1
    )
    for listed, face, label in ((True, "C0", "listed width"), (False, "white", "calibrated afterwards")):
        points = [row for row in rows if row["listed"] == listed]
        if points:
            x, y = [row["macs"] for row in points], [100 * row["accuracy"] for row in points]
            axes.scatter(x, y, s=45, facecolor=face, edgecolor="C0", linewidth=1.5, zorder=2, label=label)
    for row in rows:
        text = f"{row['width']}\n{100 * row['accuracy']:.1f} %"
        point = (row["macs"], 100 * (row["accuracy"] + _standard_error(row)))
        axes.annotate(text, point, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.margins(x=0.1, y=0.25)
    axes.set(
        xlabel="multiply-adds per image (log scale)", ylabel="test accuracy ± one standard error", title=title
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, format="png")
