"""Several processes that search as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anywidth.errors import MeasurementError
from anywidth.space.width import Width

Evaluate = Callable[[Sequence[Width]], Sequence[float]]
"""Widths -> errors in [0, 1], or losses."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """This process and the others; by default a process alone.

    Attributes:
        rank, world: number of this process, and of all.
        gathered: a value -> the values of all processes, in their order.
        from_first: the value that a function has in the first process; only that one runs it.
    """

    rank: int = 0
    world: int = 1
    gathered: Callable[[Any], list[Any]] = lambda value: [value]
    from_first: Callable[[Callable[[], Any]], Any] = lambda function: function()


ALONE = Together()


def shared(evaluate: Evaluate, widths: Sequence[Width], together: Together = ALONE) -> list[float]:
    """Errors of widths, in every process: process r takes every world-th width.

    Raises:
        ValueError: in every process, if `evaluate` gives something else than one number for each width.
        MeasurementError: in every process, if one of them is not finite.
    """
    # 5 widths, 2 processes: rank 0 evaluates 0 2 4, rank 1 evaluates 1 3; width i is answer i // 2 of rank i % 2. Bad answers are
    # reported only after the exchange, in every process: one that left earlier would leave the others waiting.
    rank_widths = list(widths[together.rank :: together.world])
    answers = together.gathered([float(e) for e in evaluate(rank_widths)] if rank_widths else [])
    for rank, answer in enumerate(answers):
        expected = len(widths[rank :: together.world])
        if len(answer) != expected:
            raise ValueError(f"search: evaluate gave {len(answer)} errors for {expected} widths")
        if bad := [e for e in answer if not math.isfinite(e)]:
            raise MeasurementError(
                f"search: evaluate gave an error of {bad[0]} for a width; expected finite numbers"
            )
    return [answers[i % together.world][i // together.world] for i in range(len(widths))]
