"""What the published code of Joslim counts, and the vectors that it was counted for."""

import csv
from pathlib import Path

import numpy as np

with (Path(__file__).parent / "joslim_counts.csv").open(encoding="utf-8") as file:
    COUNTS = {row.pop("network"): {k: int(v) for k, v in row.items()} for row in csv.DictReader(file)}
"""Network -> number of tensors in a file, elements of its parameters, entries of a vector, multiply-adds that are not
counted; then multiply-adds and parameters at each vector."""

KINDS = ("1.0", "0.75", "0.5", "0.42", "ramp", "down", "alt")


def vector(kind: str, count: int) -> list[float]:
    """All the same share; from 0.42 to 1, from 1 to 0.42; 1 and 0.5 in turns."""
    if kind == "ramp":
        return np.linspace(0.42, 1, count).tolist()
    if kind == "down":
        return np.linspace(1, 0.42, count).tolist()
    return ([1.0, 0.5] * count)[:count] if kind == "alt" else [float(kind)] * count
