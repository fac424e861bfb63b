"""Latency, measured: never derived from a count."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds that one call takes, over `repeats` timed calls.

    Attributes:
        median: the middle value, the number to quote.
        low: first quartile.
        high: third quartile.
        repeats: timed calls.
    """

    median: float
    low: float
    high: float
    repeats: int


@contextmanager
def _using_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _seconds(call: Call) -> float:
    # CUDA calls return before the work is done: wait for earlier work first, then for that of the call.
    _synchronize()
    start = time.perf_counter()
    call()
    _synchronize()
    return time.perf_counter() - start


def _summary(seconds: list[float]) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(median=median, low=low, high=high, repeats=len(seconds))


def measure_all(
    calls: Mapping[str, Call], *, warmup: int = 3, repeats: int = 20, threads: int | None = None
) -> dict[str, Latency]:
    """Time several calls in turn, round by round, so that a drift of the machine meets all of them alike.

    Args:
        calls: name -> function without arguments.
        warmup: rounds that are run first and not counted.
        repeats: rounds that are counted, at least 2.
        threads: CPU threads of torch during the measurement; None keeps the present number.

    Returns:
        name -> latency in seconds.

    Raises:
        ValueError: if `repeats` is below 2 or `warmup` below 0.
    """
    if repeats < 2 or warmup < 0:
        raise ValueError(
            f"latency: expected repeats >= 2 and warmup >= 0, got repeats={repeats}, warmup={warmup}"
        )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with _using_threads(threads):
        for _ in range(warmup):
            for call in calls.values():
                _seconds(call)
        for _ in range(repeats):
            for name, call in calls.items():
                seconds[name].append(_seconds(call))
    return {name: _summary(values) for name, values in seconds.items()}


def measure(call: Call, *, warmup: int = 3, repeats: int = 20, threads: int | None = None) -> Latency:
    """Time one call; see `measure_all`."""
    return measure_all({"call": call}, warmup=warmup, repeats=repeats, threads=threads)["call"]


def ratios(latencies: Mapping[str, Latency], *, baseline: str) -> dict[str, float]:
    """Median of each over the median of the baseline: 2.0 means twice as slow.

    Raises:
        ValueError: if there is no latency of that name.
    """
    if baseline not in latencies:
        raise ValueError(f"latency: no measurement is called {baseline!r}; there are {sorted(latencies)}")
    reference = latencies[baseline].median
    return {name: latency.median / reference for name, latency in latencies.items()}
