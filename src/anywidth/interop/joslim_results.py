"""What a run of Joslim's reference code leaves behind besides weights: its history, pools of vectors, and fronts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.files import replacing
from anywidth.interop.arrays import NAMES, Array
from anywidth.interop.checkpoint_files import read_whole
from anywidth.interop.joslim_widths import decode
from anywidth.space.width import Width


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One vector that the search proposed.

    Attributes:
        vector: as proposed, one share per entry.
        width: what it stands for.
        loss: cross entropy at the last calibration of the history; None before the first.
        macs: multiply-adds as the reference code counts them.
        ratio: of those of the full network.
    """

    vector: tuple[float, ...]
    width: Width
    loss: float | None
    macs: int
    ratio: float


def history(path: str | Path, net: Elastic) -> list[Proposal]:
    """All vectors that a run proposed, in order; none of a run without a search.

    Args:
        path: `checkpoint/NAME.pt` of the reference code.
        net: a network of the same model.

    Raises:
        CheckpointError: unreadable, or without a history.
        WidthError: vectors of another model.
    """
    content = _dict(path, ("X", "Y", "population_data"))
    if content["X"] is None:
        return []
    rows, pairs, records = _rows(path, content["X"]), content["Y"], content["population_data"]
    # One entry of each list per proposal: X (n, entries) vectors, Y (n) pairs, and n records.
    counts = {"X": len(rows), "Y": len(pairs), "population_data": len(records)}
    if len(set(counts.values())) > 1:
        raise CheckpointError(f"{path}: the history has entries of different number: {counts}; it is damaged")
    return [_proposal(path, net, *entry) for entry in zip(rows, pairs, records, strict=True)]


def _proposal(path: str | Path, net: Elastic, row: tuple[float, ...], pair: Any, record: Any) -> Proposal:
    try:
        loss, ratio, macs = float(pair[0]), float(pair[1]), round(record["flops"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path}: expected [loss, ratio] and a record with flops for each vector, got {pair!r} and {record!r}"
        ) from error
    return Proposal(vector=row, width=decode(net, row), loss=loss or None, macs=macs, ratio=ratio)


def sample_pool(path: str | Path, net: Elastic) -> list[Width]:
    """The widths of a pool of vectors, in order.

    Args:
        path: `checkpoint/NAME_sample_pool.pt` of the reference code.
        net: a network of the same model.

    Raises:
        CheckpointError: unreadable, or no pool.
        WidthError: vectors of another model.
    """
    return [decode(net, row) for row in _rows(path, _dict(path, ("X",))["X"])]


def _dict(path: str | Path, keys: Sequence[str]) -> dict[str, Any]:
    content = read_whole(Path(path), NAMES)
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(
            f"{path}: holds no {' and no '.join(map(repr, missing))}; expected a file of joslim"
        )
    return content


def _rows(path: str | Path, array: Any) -> list[tuple[float, ...]]:
    if not isinstance(array, Array) or array.values.ndim != 2:
        shape = array.values.shape if isinstance(array, Array) else type(array).__name__
        raise CheckpointError(f"{path}: expected an array of vectors, one per row, as 'X'; got {shape}")
    return [tuple(row) for row in array.values.tolist()]


@dataclass(frozen=True, kw_only=True)
class Pareto:
    """A front, one entry per network.

    Attributes:
        ratios: multiply-adds, as a share of those of the full network.
        top1, top5: accuracy in percent.
    """

    ratios: tuple[float, ...]
    top1: tuple[float, ...]
    top5: tuple[float, ...]


def read_pareto(path: str | Path) -> Pareto:
    """A front from `results/NAME_eval_pareto.txt` of the reference code: three rows, one column per network.

    Raises:
        CheckpointError: no such file, or another content.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        rows = [tuple(map(float, line.split())) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a text of three rows of numbers ({error})") from error
    if len(rows) != 3 or len({len(row) for row in rows}) != 1:
        raise CheckpointError(
            f"{path}: expected three rows of equal length (ratios, top-1, top-5), got {[len(r) for r in rows]}"
        )
    return Pareto(ratios=rows[0], top1=rows[1], top5=rows[2])


def write_pareto(
    path: str | Path, ratios: Sequence[float], top1: Sequence[float], top5: Sequence[float]
) -> None:
    """Write a front as the reference code does: three rows, 18 digits.

    Raises:
        ValueError: rows of different length, or a value that is not finite.
    """
    rows = [[float(v) for v in row] for row in (ratios, top1, top5)]
    if len({len(row) for row in rows}) != 1 or not all(math.isfinite(v) for row in rows for v in row):
        raise ValueError(f"{path}: expected three rows of as many finite numbers, got {rows}")
    with replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        np.savetxt(file, rows)
