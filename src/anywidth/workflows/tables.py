"""Rows of numbers as tables of text: what `print` and the command line show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TextRow = dict[str, str]
_SHORT = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A title, and rows of equal keys; all columns but the first are numbers."""

    title: str
    rows: Sequence[TextRow]


def si(value: float) -> str:
    """A count with three digits and a unit prefix: 12345678 -> "12.3 M"."""
    for limit, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{prefix}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """0.98765 -> "98.77 %"."""
    return f"{100 * share:.2f} %"


def accuracy_table(title: str, rows: Sequence[dict[str, Any]]) -> TextTable:
    """Results of a classifier: accuracy in per cent; MACs also as a part of the full width's."""
    shows_top5 = any(row.get("top5", 1) < 1 and row.get("top5") != row["accuracy"] for row in rows)
    return TextTable(
        title=title,
        rows=[
            {
                "width": str(row["width"]),
                "accuracy": percent(row["accuracy"]),
                **({"top-5": percent(row["top5"])} if shows_top5 else {}),
                "loss": f"{row['loss']:.4f}",
                "MACs": si(row["macs"]),
                "of the full": f"{row['macs_share']:.3f}",
                "params": si(row["params"]),
                **({"latency": f"{1e3 * row['latency']:.2f} ms"} if "latency" in row else {}),
                "": "" if row["listed"] else "not listed",
            }
            for row in rows
        ],
    )


def precision_tables(title: str, rows: Sequence[dict[str, Any]]) -> tuple[TextTable, ...]:
    """Results of a detector: average precisions in per cent, a table of each kind; then what each part costs."""
    precisions = [
        TextTable(
            title=f"{title}: {kind_name(iou_type)}, %",
            rows=[
                {
                    "width": str(row["width"]),
                    **{name: _precision(value) for name, value in row["metrics"][iou_type].items()},
                }
                for row in rows
                if iou_type in row["metrics"]
            ],
        )
        for iou_type in kinds_in(rows)
    ]
    return (*precisions, TextTable(title=f"{title}: multiply-adds", rows=[_part_costs(row) for row in rows]))


def kinds_in(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What rows of a detector have average precisions of, each kind once."""
    return list(dict.fromkeys(iou_type for row in rows for iou_type in row["metrics"]))


def kind_name(iou_type: str) -> str:
    """bbox -> box."""
    return _SHORT[iou_type]


def _part_costs(row: dict[str, Any]) -> TextRow:
    return {
        "width": str(row["width"]),
        **{row_name: si(macs) for row_name, macs in row["macs_of_parts"].items()},
        "of the full": f"{row['macs_share']:.3f}",
        "params": si(row["params"]),
        **({"latency": f"{1e3 * row['latency']:.0f} ms"} if "latency" in row else {}),
    }


def _precision(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"  # pycocotools says -1 where there is nothing to find
