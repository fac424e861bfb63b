"""Latency as a cost: measured once and recorded, so that a resumed search sees the same numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from anywidth.cost.budget import Costs
from anywidth.cost.latency import measure
from anywidth.elastic import Elastic
from anywidth.search.journal import Journal
from anywidth.search.processes import ALONE, Together
from anywidth.space.width import Width


def measured(net: Elastic, example: torch.Tensor, *, repeats: int = 10) -> Costs:
    """Seconds of the extracted network in evaluation mode: the median of some runs, new ones at every call.

    Args:
        net: at its device.
        example: (N, ...) the input to time.
        repeats: timed runs of each width.
    """

    @torch.inference_mode()
    def seconds(width: Width) -> float:
        small = net.extract(width).eval()
        return measure(lambda: small(example), repeats=repeats).median

    return lambda widths: [seconds(width) for width in widths]


def remembered(
    costs: Costs,
    path: Path | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    together: Together = ALONE,
) -> Costs:
    """Costs of which each is asked for once: by the first process, and never again after a crash.

    Args:
        costs: measured ones.
        path: JSON lines of all answers; None: remembered while this process lives.
        about: plain data that decides the answers: the device, the input, the network.
        together: the processes; all must ask for the same widths in the same order.

    Raises:
        CheckpointError: the file is of other measurements, or damaged.
    """
    book = Journal(path if together.rank == 0 else None, "measurement", about or {})
    known = together.from_first(lambda: _known(book))

    def ask_(width: Width) -> float:
        cost = float(costs([width])[0])
        if not math.isfinite(cost):
            raise ValueError(f"search: a cost of {cost} for {width}; expected a finite number")
        book.append_({"width": list(width.kept), "cost": cost})
        return cost

    # Only the first process measures and writes; all others receive its number, as two measurements of one width differ.
    def lookup(widths: Sequence[Width]) -> list[float]:
        for width in widths:
            if width.kept not in known:
                known[width.kept] = together.from_first(lambda width=width: ask_(width))
        return [known[width.kept] for width in widths]

    return lookup


def _known(book: Journal) -> dict[tuple[int, ...], float]:
    known = {}
    for line, record in enumerate(book.open_(), 2):
        width, cost = record.get("width"), record.get("cost")
        if not isinstance(width, list) or not isinstance(cost, float):
            raise book.damaged(line)
        known[tuple(width)] = cost
    return known
