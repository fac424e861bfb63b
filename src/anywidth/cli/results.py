"""Rows of results as text."""

from collections.abc import Sequence
from typing import Any

from anywidth.cli.console import si


def rows_as_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Accuracy in per cent; MACs also as a part of the full width's."""
    return [
        {
            "width": str(row["width"]),
            "accuracy": f"{100 * row['accuracy']:.2f} %",
            "loss": f"{row['loss']:.4f}",
            "MACs": si(row["macs"]),
            "of the full": f"{row['macs_share']:.3f}",
            "params": si(row["params"]),
            "": "" if row["listed"] else "not listed",
        }
        for row in rows
    ]
