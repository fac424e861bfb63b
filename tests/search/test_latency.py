import json
import threading

import pytest
import torch

from anywidth.errors import CheckpointError, WidthError
from anywidth.search import Budget, Evolve, Greedy, check, measured, remembered, run_search
from meeting import Meeting


class Clock:
    """Says another time at every call, as a real one does."""

    def __init__(self, start=0):
        self.calls = []
        self.start = start

    def __call__(self, widths):
        self.calls += [w.kept for w in widths]
        return [1e-3 * sum(w.kept) + 1e-6 * (self.start + len(self.calls)) for w in widths]


def error(widths):
    return [sum(1 / k for k in w.kept) / 3 for w in widths]


def test_latency_is_that_of_the_extracted_network(net):
    full, half = measured(net, torch.randn(1, 3, 16, 16), repeats=3)([net.space.full, net.space.uniform(0.5)])
    assert 0 < half < 1
    assert 0 < full < 1


def test_a_width_is_measured_once(net, tmp_path):
    clock, path = Clock(), tmp_path / "latencies"
    widths = [net.space.full, net.space.smallest, net.space.full]
    costs = remembered(clock, path, about={"device": "a"})
    first = costs(widths)
    assert first[0] == first[2]
    assert costs(widths) == first
    assert remembered(Clock(100), path, about={"device": "a"})(widths) == first
    assert clock.calls == [net.space.full.kept, net.space.smallest.kept]
    in_memory = remembered(clock)
    assert in_memory(widths) == in_memory(widths) != first


@pytest.mark.parametrize(
    "make",
    [lambda n, b: Greedy(n, b, steps=4), lambda n, b: Evolve(n, b, population=6, generations=2, parents=2)],
)
def test_a_search_with_a_noisy_clock_goes_on_from_any_record(net, tmp_path, make):
    """Rounds and latencies are cut at moments of their own; what is left decides as before."""
    limits = Budget(kind="latency", limits={"latency=15ms": 0.0155, "latency=10ms": 0.0105})
    log, times = tmp_path / "log", tmp_path / "times"

    def search(start):
        clock = Clock(start)
        costs = remembered(clock, times)
        return run_search(make(net, limits), error, costs, log=log), clock.calls

    whole, calls = search(0)
    assert len(calls) == len(set(calls))
    assert all(m.cost <= limits.limits[m.label] for m in whole.members)
    rounds, measurements = log.read_text(), times.read_text()
    assert search(1000) == (whole, [])  # a replay measures nothing
    for part in range(1, len(rounds.splitlines())):
        log.write_text("".join(rounds.splitlines(keepends=True)[:part]) + '{"round": ')
        found, again = search(1000)
        assert (found, again) == (whole, [])
        assert log.read_text() == rounds
    times.write_text("".join(measurements.splitlines(keepends=True)[:3]))
    log.unlink()
    found, again = search(0)
    assert len(again) == len(calls) - 2
    assert len(found.members) == 2


def test_processes_agree_though_their_clocks_differ(net, tmp_path):
    meeting, results = Meeting(), {}

    def process(rank):
        clock = Clock(1000 * rank)
        costs = remembered(clock, tmp_path / "times", together=meeting.of(rank))
        results[rank] = (costs([net.space.full, net.space.smallest]), len(clock.calls))

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert results[0][0] == results[1][0]
    assert (results[0][1], results[1][1]) == (2, 0)


def test_latencies_of_something_else_are_refused(net, tmp_path):
    path = tmp_path / "times"
    remembered(Clock(), path, about={"device": "a"})([net.space.full])
    with pytest.raises(CheckpointError, match=r"is the log of another measurement \(device differ\)"):
        remembered(Clock(), path, about={"device": "b"})
    path.write_text(path.read_text() + json.dumps({"width": [1], "cost": "fast"}) + "\n")
    with pytest.raises(CheckpointError, match="times: line 3 is damaged"):
        remembered(Clock(), path, about={"device": "a"})
    with pytest.raises(ValueError, match=r"a cost of nan for Width\(.*expected a finite number"):
        remembered(lambda widths: [float("nan")])([net.space.full])


@pytest.mark.parametrize("seconds", [0.001, 1.0])
def test_a_latency_out_of_reach_is_said_before_the_search(net, seconds):
    with pytest.raises(
        WidthError, match="seconds is outside what this network can have: the smallest width costs"
    ):
        check(net, Budget(kind="latency", limits={"a": seconds}), Clock())
