"""The front of a search on the test images, beside uniform widths: table, text, JSON and picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anywidth.cli.console import print_table, si
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.files import replacing, write_json
from anywidth.interop.joslim import write_pareto
from anywidth.search import area_under, hypervolume
from anywidth.space.width import Width

PARETO, TEXT, PICTURE = "pareto.json", "pareto.txt", "pareto.png"
_UNIFORM = 8
_BEYOND = (1.0 + 1e-9, 1.0)  # the reference point: the widest network's cost, and every image wrong


def curves(net: Elastic, members: Mapping[str, Width], low: float) -> dict[str, dict[str, Width]]:
    """Name of a curve -> label -> width: the members of a front, and uniform widths, from the narrowest to the widest."""
    ends = {"smallest": net.space.uniform(low), "widest": net.space.full}
    ratios = [low + (1 - low) * i / (_UNIFORM - 1) for i in range(_UNIFORM)]
    return {
        "front": _once({"smallest": ends["smallest"], **members, "widest": ends["widest"]}),
        "uniform": _once({f"{ratio:.3f}": net.space.uniform(ratio) for ratio in ratios}),
    }


def _once(widths: dict[str, Width]) -> dict[str, Width]:
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


def report_(path: Path, title: str, rows_by_curve: dict[str, list[dict[str, Any]]]) -> None:
    """Write RUN/pareto.{json,txt,png} and print the tables.

    Args:
        path: run directory.
        title: of the picture.
        rows_by_curve: curve -> rows of results, the cheapest first.
    """
    between = _common(rows_by_curve)
    quality = {name: qualities(rows, between) for name, rows in rows_by_curve.items()}
    write_json(
        path / PARETO, {"model": title, "between": between, "quality": quality, "curves": rows_by_curve}
    )
    front = rows_by_curve["front"]
    write_pareto(
        path / TEXT,
        [row["macs_share"] for row in front],
        [100 * row["accuracy"] for row in front],
        [100 * row["top5"] for row in front],
    )
    with replacing(path / PICTURE) as temporary:
        draw(rows_by_curve, quality, title=title, path=temporary)
    for name, rows in rows_by_curve.items():
        print_table(f"{path}: {name}", _rows_as_text(rows))
    print_table(
        f"{path}: errors from {between[0]:.3f} to {between[1]:.3f} of the MACs",
        [
            {
                "curve": name,
                "area under the curve": f"{100 * q['area']:.2f} %",
                "hypervolume": f"{q['hypervolume']:.4f}",
            }
            for name, q in quality.items()
        ],
    )


def _common(rows_by_curve: dict[str, list[dict[str, Any]]]) -> tuple[float, float]:
    """The range of costs that all curves cover."""
    ends = [[row["macs_share"] for row in rows] for rows in rows_by_curve.values()]
    low, high = max(min(e) for e in ends), min(max(e) for e in ends)
    if not low < high:
        raise WidthError(f"pareto: the curves share no range of MACs (from {low:.3f} to {high:.3f})")
    return low, high


def _rows_as_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "width": row["width"],
            "of the full MACs": f"{row['macs_share']:.3f}",
            "MACs": si(row["macs"]),
            "params": si(row["params"]),
            "top-1": f"{100 * row['accuracy']:.2f} %",
            "top-5": f"{100 * row['top5']:.2f} %",
        }
        for row in rows
    ]


def draw(
    found: dict[str, list[dict[str, Any]]], quality: dict[str, dict[str, float]], *, title: str, path: Path
) -> None:
    """Test error against the share of the widest network's MACs, one line for each curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (name, rows), style in zip(found.items(), ("o-C0", "s--C7"), strict=True):
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
