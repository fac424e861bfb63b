"""The pictures of reports, evaluations and gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anywidth.workflows.tables import kind_name, kinds_in, si


def _standard_error(row: dict[str, Any]) -> float:
    return math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["images"])


def draw_accuracies(rows: Sequence[dict[str, Any]], *, title: str, path: Path) -> None:
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


def draw_precisions(rows: Sequence[dict[str, Any]], *, title: str, path: Path) -> None:
    """AP of every kind against multiply-adds, one labelled point per width."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    macs = [row["macs"] for row in rows]
    for curve_index, iou_type in enumerate(kinds_in(rows)):
        with_kind = [row for row in rows if iou_type in row["metrics"]]
        values = [100 * row["metrics"][iou_type]["AP"] for row in with_kind]
        axes.plot([row["macs"] for row in with_kind], values, f"o-C{curve_index}", label=kind_name(iou_type))
        for row, value in zip(with_kind, values, strict=True):
            axes.annotate(
                f"{row['width']}\n{value:.1f}", (row["macs"], value), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(macs)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1, y=0.25)
    axes.set(xlabel="multiply-adds per image (log scale)", ylabel="AP on the test images, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, format="png")


def draw_curves(
    rows_by_curve: dict[str, list[dict[str, Any]]],
    quality: dict[str, dict[str, float]],
    *,
    title: str,
    path: Path,
) -> None:
    """Test error against the share of the widest network's MACs, one line for each curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (name, rows), style in zip(rows_by_curve.items(), ("o-C0", "s--C7"), strict=True):
        axes.plot(
            [row["macs_share"] for row in rows],
            [100 * row["error"] for row in rows],
            style,
            markersize=5,
            label=f"{name}: area {100 * quality[name]['area']:.2f} %",
        )
    axes.set(xlabel="multiply-adds, as a share of the widest network's", ylabel="test error, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png")


def draw_gates(results: dict[str, Any], *, title: str, path: Path) -> None:
    """Test accuracy against mean multiply-adds: static widths, the gate at its bias, and at others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for rows, style, label in (
        (results["static"], "o-C7", "static widths"),
        (results["sweep"], ".-C0", "gated, bias swept"),
        ([results["gate"]], "DC3", "gated, as trained"),
    ):
        axes.plot([r["macs"] / 1e6 for r in rows], [100 * r["accuracy"] for r in rows], style, label=label)
    axes.set(xlabel="mean multiply-adds for an image, M", ylabel="test accuracy, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png")
