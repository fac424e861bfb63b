"""Rows of results as text."""

from collections.abc import Sequence
from typing import Any

from anywidth.cli.console import si


def rows_as_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Accuracy in per cent; MACs also as a part of the full width's."""
    shows_top5 = any(row.get("top5", 1) < 1 and row.get("top5") != row["accuracy"] for row in rows)
    return [
        {
            "width": str(row["width"]),
            "accuracy": f"{100 * row['accuracy']:.2f} %",
            **({"top-5": f"{100 * row['top5']:.2f} %"} if shows_top5 else {}),
            "loss": f"{row['loss']:.4f}",
            "MACs": si(row["macs"]),
            "of the full": f"{row['macs_share']:.3f}",
            "params": si(row["params"]),
            **({"latency": f"{1e3 * row['latency']:.2f} ms"} if "latency" in row else {}),
            "": "" if row["listed"] else "not listed",
        }
        for row in rows
    ]
