"""anywidth report: accuracy against MACs, as a table, a picture and JSON."""

from pathlib import Path
from typing import Any

import typer

from anywidth.cli.console import print_table, si
from anywidth.cli.results import rows_as_text
from anywidth.cli.run import EVALUATION, RESULTS, finished_run, read_results
from anywidth.files import replacing, write_json

FIGURE, REPORT = "report.png", "report.json"


def report(run: Path = typer.Argument(metavar="RUN", help="Run directory.")) -> None:
    """Report on a finished RUN: its listed widths and those of its last `anywidth eval`."""
    finished_run(run)
    results = read_results(run / RESULTS)
    rows = {str(row["width"]): row for row in results["rows"]}
    if (run / EVALUATION).exists():
        rows |= {str(row["width"]): row for row in read_results(run / EVALUATION)["rows"]}
    ordered = sorted(rows.values(), key=lambda row: row["macs"])
    with replacing(run / FIGURE) as temporary:
        draw(ordered, title=f"{results['model']}: one set of weights", path=temporary)
    write_json(run / REPORT, {**results, "rows": ordered, "figure": FIGURE})
    print_table(f"{run}", rows_as_text(ordered))
    typer.echo(run / FIGURE)


def draw(rows: list[dict[str, Any]], *, title: str, path: Path) -> None:
    """Test accuracy against MACs, one labelled point per width; filled where the width is listed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    macs, accuracy = ([row[key] for row in rows] for key in ("macs", "accuracy"))
    axes.plot(macs, [100 * value for value in accuracy], color="0.7", zorder=1)
    for listed, face, label in ((True, "C0", "listed width"), (False, "white", "calibrated afterwards")):
        points = [row for row in rows if row["listed"] == listed]
        if points:
            x, y = [row["macs"] for row in points], [100 * row["accuracy"] for row in points]
            axes.scatter(x, y, s=45, facecolor=face, edgecolor="C0", linewidth=1.5, zorder=2, label=label)
    for row in rows:
        text = f"{row['width']}\n{100 * row['accuracy']:.1f} %"
        point = (row["macs"], 100 * row["accuracy"])
        axes.annotate(text, point, xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xticks(macs, [si(value) for value in macs])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.margins(x=0.1, y=0.25)
    axes.set(xlabel="multiply-adds per image (log scale)", ylabel="test accuracy", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, format="png")
