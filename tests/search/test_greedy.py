import itertools

import numpy as np
import pytest

from anywidth.errors import WidthError
from anywidth.search import Budget, Evolve, Greedy, closed_form, run_search
from anywidth.space.width import Width
from enumerated_searches import LIMITS, additive, budget, every_width, optimum


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
