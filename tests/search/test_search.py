"""Searches on networks whose every width can be enumerated."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, WidthError
from anywidth.search import (
    Budget,
    Evolve,
    Greedy,
    Together,
    check,
    closed_form,
    largest_uniform,
    parse,
    run_search,
)
from anywidth.space.width import Width

LIMITS = {"macs=60%": 0.6, "macs=30%": 0.3}


def budget(net, limits=LIMITS) -> Budget:
    return Budget(kind="macs", limits={label: share * net.macs(1.0) for label, share in limits.items()})


def every_width(net) -> list[Width]:
    return [Width(names=net.space.names, kept=kept) for kept in itertools.product((2, 4, 6, 8), repeat=3)]


def additive(net, weights=(1.0, 3.0, 0.3)):
    """An error that every group adds its part to, convex in its channels: greedy steps are good steps."""
    sizes = net.space.full.kept

    def errors(widths):
        return [
            min(
                1.0,
                0.1 + 0.1 * sum(a * ((n / k) - 1) for a, k, n in zip(weights, w.kept, sizes, strict=True)),
            )
            for w in widths
        ]

    return errors


def optimum(net, errors, limit) -> float:
    widths = [w for w in every_width(net) if net.macs(w) <= limit]
    return min(errors(widths))


def searchers(net, limits=None):
    chosen = limits or budget(net)
    return {
        "greedy": Greedy(net, chosen, steps=4),
        "per cost": Greedy(net, chosen, steps=4, criterion="error_per_cost"),
        "evolve": Evolve(net, chosen, population=12, generations=6, parents=4, seed=1),
    }


@pytest.mark.parametrize("name", ["greedy", "per cost", "evolve"])
def test_every_limit_is_met_and_nothing_beats_the_enumeration(net, name):
    errors = additive(net)
    front = run_search(searchers(net)[name], errors, closed_form(net, "macs"))
    assert [m.label for m in front.members] == ["macs=30%", "macs=60%"]
    for m in front.members:
        limit = LIMITS[m.label] * net.macs(1.0)
        assert m.cost == net.macs(m.width) == m.macs <= limit
        assert m.params == net.params(m.width)
        assert m.error == pytest.approx(errors([m.width])[0])
        assert m.error >= optimum(net, errors, limit) - 1e-12
        uniform = largest_uniform(net, closed_form(net, "macs"), limit)
        assert m.error <= errors([uniform])[0]


@pytest.mark.parametrize("weights", [(1.0, 3.0, 0.3), (3.0, 0.3, 1.0), (0.3, 1.0, 3.0), (2.0, 2.0, 0.1)])
def test_evolution_finds_the_optimum_of_a_network_that_can_be_enumerated(net, weights):
    errors = additive(net, weights)
    found = run_search(searchers(net)["evolve"], errors, closed_form(net, "macs")).members
    best = [optimum(net, errors, LIMITS[m.label] * net.macs(1.0)) for m in found]
    assert [m.error for m in found] == pytest.approx(best)
    assert len(found) == 2


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("criterion", ["error", "error_per_cost"])
def test_greedy_finds_the_optimum_where_one_group_matters(net, weights, criterion):
    """Then no step has to be taken back; where groups trade, a greedy descent may end beside the optimum."""
    errors = additive(net, weights)
    front = run_search(
        Greedy(net, budget(net), steps=4, criterion=criterion), errors, closed_form(net, "macs")
    )
    assert len(front.members) == 2
    for m in front.members:
        assert m.error == pytest.approx(optimum(net, errors, LIMITS[m.label] * net.macs(1.0)))


def test_greedy_takes_the_smallest_error_and_of_equals_the_first(net):
    asked = []

    def errors(widths):
        asked.append([w.kept for w in widths])
        return [0.5] * len(widths)

    run_search(Greedy(net, budget(net, {"a": 0.5}), steps=4), errors, closed_form(net, "macs"))
    assert asked[0] == [(8, 8, 8)]
    assert asked[1] == [(6, 8, 8), (8, 6, 8), (8, 8, 6)]
    assert asked[2] == [(4, 8, 8), (6, 6, 8), (6, 8, 6)]


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_optimal_where_that_can_be_proved(net, seed):
    """Errors that are convex in each group and add up, steps that cost the same: the cheapest loss first is best at every cost."""
    random = np.random.default_rng(seed)
    losses = np.sort(random.random((3, 3)), axis=1) / 10  # of the first step down, the second, the third
    lost = np.concatenate([np.zeros((3, 1)), np.cumsum(losses, axis=1)], axis=1)

    def errors(widths):
        return [float(sum(lost[g, (8 - k) // 2] for g, k in enumerate(w.kept))) for w in widths]

    def channels(widths):
        return [float(sum(w.kept)) for w in widths]

    limits = Budget(kind="params", limits={str(n): float(n) for n in range(24, 5, -2)})
    for criterion in ("error", "error_per_cost"):
        front = run_search(Greedy(net, limits, steps=4, criterion=criterion), errors, channels)
        assert [m.label for m in front.members] == [str(n) for n in range(6, 25, 2)]
        for m in front.members:
            best = min(e for w in every_width(net) if sum(w.kept) <= int(m.label) for e in errors([w]))
            assert m.error == pytest.approx(best, abs=1e-12)


def test_of_steps_that_cost_no_accuracy_the_one_that_saves_most_is_taken(net):
    asked = []

    def errors(widths):
        asked.append(list(widths))
        return [0.5] * len(widths)

    run_search(
        Greedy(net, budget(net, {"a": 0.7}), steps=4, criterion="error_per_cost"),
        errors,
        closed_form(net, "macs"),
    )
    assert all(w <= min(asked[1], key=net.macs) for w in asked[2])


def test_decisions_are_nested(net):
    """Every round narrows one group by one step, so that of two limits the tighter has the nested width."""
    rounds = []
    run_search(
        Greedy(net, budget(net, {"a": 0.9, "b": 0.2}), steps=4),
        additive(net),
        closed_form(net, "macs"),
        report=rounds.append,
    )
    chosen = [r.widths[r.errors.index(min(r.errors))] for r in rounds]
    for wide, narrow in itertools.pairwise(chosen):
        assert narrow <= wide
        assert sum(wide.kept) - sum(narrow.kept) == 2
    assert [r.number for r in rounds] == list(range(1, len(rounds) + 1))


def test_greedy_may_start_narrower(net):
    start = Width(names=net.space.names, kept=(8, 4, 6))
    asked = []

    def errors(widths):
        asked.append([w.kept for w in widths])
        return additive(net)(widths)

    searcher = Greedy(net, budget(net, {"a": 0.2}), steps=4, start=start)
    front = run_search(searcher, errors, closed_form(net, "macs"))
    assert asked[:2] == [[(8, 4, 6)], [(6, 4, 6), (8, 2, 6), (8, 4, 4)]]
    assert front.members[0].width <= start
    assert front.about["start"] == [8, 4, 6]


def test_groups_at_their_minimum_drop_out(net):
    limits = budget(net, {"a": net.macs(net.space.smallest) / net.macs(1.0)})
    rounds = []
    front = run_search(
        Greedy(net, limits, steps=4),
        lambda ws: [0.5] * len(ws),
        closed_form(net, "macs"),
        report=rounds.append,
    )
    assert front.members[0].width == net.space.smallest
    assert [len(r.widths) for r in rounds] == [1, 3, 3, 3, 2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("name", ["greedy", "evolve"])
def test_a_search_goes_on_from_any_part_of_its_log(net, tmp_path, name):
    errors = additive(net)
    costs = closed_form(net, "macs")
    log = tmp_path / "search.jsonl"
    whole = run_search(searchers(net)[name], errors, costs, log=log)
    text = log.read_text()
    asked = []

    def counted(widths):
        asked.extend(widths)
        return errors(widths)

    ends = [i + 1 for i, letter in enumerate(text) if letter == "\n"]
    for cut in sorted({0, 5, *ends, *(end - 1 for end in ends), *(end - 9 for end in ends)}):
        log.write_text(text[:cut])
        asked.clear()
        assert run_search(searchers(net)[name], counted, costs, log=log) == whole
        assert log.read_text() == text
        if cut == len(text):
            assert not asked


@pytest.mark.parametrize("name", ["greedy", "evolve"])
def test_two_processes_search_as_one(net, name):
    """Both run at the same time in threads and exchange what they found."""
    import threading

    errors, costs = additive(net), closed_form(net, "macs")
    alone = run_search(searchers(net)[name], errors, costs)
    meeting, board, share = threading.Barrier(2), {}, {0: 0, 1: 0}

    def process(rank, results):
        def gathered(value):
            board[rank] = value
            meeting.wait()
            found = [board[0], board[1]]
            meeting.wait()
            return found

        def counted(widths):
            share[rank] += len(widths)
            return errors(widths)

        together = Together(
            rank=rank,
            world=2,
            gathered=gathered,
            from_first=lambda f: gathered(f() if rank == 0 else None)[0],
        )
        results[rank] = run_search(searchers(net)[name], counted, costs, together=together)

    results = {}
    threads = [threading.Thread(target=process, args=(rank, results)) for rank in range(2)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert results == {0: alone, 1: alone}
    assert abs(share[0] - share[1]) <= alone.about.get("rounds", 20) + 2


def test_evolution_is_fixed_by_its_seed(net):
    found = [
        run_search(
            Evolve(net, budget(net), population=6, generations=2, parents=2, seed=s),
            additive(net),
            closed_form(net, "macs"),
        )
        for s in (0, 0, 1)
    ]
    assert found[0].members == found[1].members
    assert found[0].about["seed"] != found[2].about["seed"]


def test_the_log_of_another_search_is_refused(net, tmp_path):
    log, costs = tmp_path / "search.jsonl", closed_form(net, "macs")

    def search(steps=4, **about):
        return run_search(Greedy(net, budget(net), steps=steps), additive(net), costs, log=log, about=about)

    assert search(images=100).about["images"] == 100
    with pytest.raises(CheckpointError, match=r"is the log of another search \(steps differ\)"):
        search(steps=2, images=100)
    with pytest.raises(CheckpointError, match=r"is the log of another search \(images differ\)"):
        search(images=200)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    records[2]["widths"][0][0] += 1
    log.write_text("".join(json.dumps(r) + "\n" for r in records))
    with pytest.raises(CheckpointError, match="round 2 holds other widths"):
        search(images=100)


@pytest.mark.parametrize(
    "change",
    [
        {"round": 7},
        {"errors": [0.5]},
        {"errors": None},
        {"errors": ["a", "b", "c"]},
        {"errors": [0.1, float("nan"), 0.2]},
        {"widths": None},
    ],
)
def test_a_round_that_cannot_be_what_was_written(net, tmp_path, change):
    log, costs = tmp_path / "search.jsonl", closed_form(net, "macs")
    run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)
    lines = log.read_text().splitlines(keepends=True)
    lines[2] = json.dumps({**json.loads(lines[2]), **change}) + "\n"
    log.write_text("".join(lines))
    with pytest.raises(CheckpointError, match="line 3 is damaged"):
        run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)
    assert log.read_text() == "".join(lines)


def test_a_log_that_goes_on_after_the_search_is_damaged(net, tmp_path):
    log, costs = tmp_path / "search.jsonl", closed_form(net, "macs")
    run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)
    text = log.read_text()
    log.write_text(text + text.splitlines(keepends=True)[-1])
    with pytest.raises(CheckpointError, match=f"line {text.count(chr(10)) + 1} is damaged"):
        run_search(Greedy(net, budget(net), steps=4), additive(net), costs, log=log)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda widths: [0.5] * len(widths) + [0.5], "evaluate gave 2 errors for 1 widths"),
        (lambda widths: [], "evaluate gave 0 errors for 1 widths"),
        (lambda widths: [float("nan")] * len(widths), "evaluate gave an error of nan"),
        (lambda widths: [float("inf")] * len(widths), "evaluate gave an error of inf"),
    ],
)
def test_answers_that_cannot_be(net, tmp_path, answer, message):
    with pytest.raises(ValueError, match=message):
        run_search(
            Greedy(net, budget(net), steps=4), answer, closed_form(net, "macs"), log=tmp_path / "search.jsonl"
        )
    assert (tmp_path / "search.jsonl").read_text().count("\n") == 1  # the wrong answer is not kept


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("macs=75%,50%", {"macs=75%": 750.0, "macs=50%": 500.0}),
        ("params=2.5M", {"params=2.5M": 2.5e6}),
        ("latency=5ms,1s", {"latency=1s": 1.0, "latency=5ms": 5e-3}),
        ("macs=300", {"macs=300": 300.0}),
    ],
)
def test_budgets_as_they_are_typed(text, limits):
    found = parse(text, lambda kind: 1000.0)
    assert found.limits == pytest.approx(limits)
    assert list(found.limits) == list(limits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops=3", "expected macs=LIMITS"),
        ("macs", "expected macs=LIMITS"),
        ("macs=3ms", "expected a number with one of %, k, M, G, T"),
        ("latency=50%", "a share would be measured anew"),
        ("latency=3M", "expected a number with one of %, s, ms, us"),
        ("macs=1.2.3", "'1.2.3' is no number"),
    ],
)
def test_budgets_that_cannot_be_read(text, message):
    with pytest.raises(WidthError, match=message):
        parse(text, lambda kind: 1000.0)


def test_budgets_that_cannot_be_met(net):
    costs = closed_form(net, "macs")
    with pytest.raises(WidthError, match="is outside what this network can have: the smallest width costs"):
        check(net, budget(net, {"a": 0.001}), costs)
    with pytest.raises(WidthError, match="no limits"):
        check(net, Budget(kind="macs", limits={}), costs)
    with pytest.raises(WidthError, match="the smallest width still costs"):
        run_search(Greedy(net, budget(net, {"a": 0.001}), steps=4), additive(net), costs)
    with pytest.raises(WidthError, match="not even the smallest width"):
        largest_uniform(net, costs, 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda n: Greedy(n, budget(n), steps=0), "at least 1 step"),
        (lambda n: Greedy(n, budget(n), steps={"none": 4}), "unknown channel group 'none'"),
        (lambda n: Greedy(n, budget(n), steps={"*": 0}), "a step of 0 channels"),
        (lambda n: Greedy(n, budget(n), criterion="luck"), "unknown criterion 'luck'"),
        (lambda n: Evolve(n, budget(n), population=1), "population >= 2"),
        (
            lambda n: Greedy(n, budget(n), start=n.space.width({"0": [0, 2]})),
            "the start keeps chosen units",
        ),
    ],
)
def test_settings_that_cannot_be(net, make, message):
    with pytest.raises(WidthError, match=message):
        make(net)


def test_the_largest_uniform_width_within_a_limit(net):
    costs = closed_form(net, "macs")
    for limit in (0.2, 0.5, 0.99, 1.0):
        width = largest_uniform(net, costs, limit * net.macs(1.0))
        fitting = [
            net.space.uniform(r / 100) for r in range(1, 101) if net.macs(r / 100) <= limit * net.macs(1.0)
        ]
        assert width == fitting[-1]


def test_every_limit_keeps_its_member_where_one_width_is_best_within_both(net):
    searcher = searchers(net)["evolve"]
    front = run_search(searcher, lambda widths: [0.3] * len(widths), closed_form(net, "macs"))
    assert [m.label for m in front.members] == ["macs=30%", "macs=60%"]
    assert len(searcher.explored()) == 1


def test_answers_on_other_images_are_no_answers(net, tmp_path):
    def search(images):
        greedy = Greedy(net, budget(net), steps=4)
        log, costs = tmp_path / "log", closed_form(net, "macs")
        return run_search(greedy, additive(net), costs, log=log, about={"images": images})

    assert search(200) == search(200)
    with pytest.raises(CheckpointError, match=r"another search \(images differ\)"):
        search(20)


def test_evolution_narrows_small_groups_to_a_latency():
    """Groups of seven units: rounding 0.93 x 7 once more at every step would leave them at seven."""
    model = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 2))
    net = Elastic(model, torch.randn(1, 3))

    def latency(widths):
        return [float(sum(w.kept)) for w in widths]

    evolve = Evolve(
        net, Budget(kind="latency", limits={"latency=6s": 6.0}), population=4, generations=1, parents=2
    )
    widths = evolve._fitted(np.array([7, 7]), latency, 6.0)
    assert [sum(w.kept) for w in widths] == [6]
