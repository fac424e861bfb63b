import statistics
import time

import pytest
import torch

from anywidth.cost.latency import Latency, measure, measure_all, ratios


def test_median_and_quartiles_are_of_the_counted_calls(monkeypatch):
    seconds = [100.0, 3.0, 1.0, 2.0, 5.0, 4.0]  # the first is the warm-up
    clock = iter([edge for value in seconds for edge in (0.0, value)])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    latency = measure(lambda: None, warmup=1, repeats=5)
    low, median, high = statistics.quantiles(seconds[1:], n=4, method="inclusive")
    assert latency == Latency(median=median, low=low, high=high, repeats=5)
    assert (low, median, high) == (2.0, 3.0, 4.0)


def test_calls_take_turns():
    order = []
    measure_all({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, warmup=1, repeats=2)
    assert order == ["a", "b"] * 3


def test_a_call_that_waits_longer_measures_longer():
    calls = {"short": lambda: time.sleep(0.005), "long": lambda: time.sleep(0.02)}
    latencies = measure_all(calls, warmup=0, repeats=3)
    assert latencies["short"].median >= 0.005
    assert ratios(latencies, baseline="short")["short"] == 1
    assert ratios(latencies, baseline="short")["long"] > 2


def test_threads_hold_during_the_measurement_only():
    before = torch.get_num_threads()
    seen = []
    measure(lambda: seen.append(torch.get_num_threads()), warmup=0, repeats=2, threads=before + 1)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("options", [{"repeats": 1}, {"warmup": -1}])
def test_too_few_rounds_are_refused(options):
    with pytest.raises(ValueError, match="expected repeats >= 2 and warmup >= 0, got"):
        measure(lambda: None, **options)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="no measurement is called 'b'"):
        ratios({"a": Latency(median=1, low=1, high=1, repeats=2)}, baseline="b")
