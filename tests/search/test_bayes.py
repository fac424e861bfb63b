from functools import cache

import numpy as np
import pytest
import torch

from anywidth.cost.budget import Budget, closed_form
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, WidthError
from anywidth.models import SmallResNet
from anywidth.search import Bayes, Random, hypervolume, run_search
from effort import SEEDS
from known_fronts import UNITS, Problem


def found_by(searcher, problem):
    front = run_search(searcher, problem.errors, problem.costs)
    return hypervolume(
        [m.cost for m in front.members], [m.error for m in front.members], reference=(1.01, 1.0)
    )


@pytest.fixture(scope="module")
def rivals(chain):
    """What the published bound and random widths find on the problem of a seed, in so many evaluations."""

    @cache
    def found(seed, evals):
        problem = Problem(seed)
        options = {"costs": problem.costs, "evals": evals, "prior_points": 8, "seed": seed}
        published = found_by(Bayes(chain, acquisition="reference", **options), problem)
        return published, found_by(Random(chain, evals=evals, seed=seed), problem)

    return found


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("acquisition", ["optimistic", "ehvi"])
def test_it_beats_random_and_is_no_worse_than_the_published_bound_on_a_known_front(
    chain, rivals, acquisition
):
    evals = 26
    gains, shares = [], []
    for seed in range(SEEDS):
        problem = Problem(seed)
        options = {"costs": problem.costs, "evals": evals, "prior_points": 8, "seed": seed}
        found = found_by(Bayes(chain, acquisition=acquisition, **options), problem)
        published, random = rivals(seed, evals)
        assert random < found < problem.best()
        gains.append(found - published)
        shares.append(found / problem.best())
    # Over 8 seeds the gain over the published bound is 0.003 +- 0.007 (its standard error), 0.02 from seed to seed; the share of
    # the known front 0.88 +- 0.01. BLAS of another processor is enough to change the path of a seed.
    assert np.mean(gains) > (-0.06 if SEEDS < 4 else -0.04)
    assert np.mean(shares) > (0.8 if SEEDS < 4 else 0.84)


def test_it_leaves_the_diagonal(chain):
    problem = Problem(0)
    bayes = Bayes(chain, costs=problem.costs, evals=24, prior_points=8)
    run_search(bayes, problem.errors, problem.costs)
    spreads = [np.ptp(np.array(t.width.kept) / UNITS) for t in bayes.trials[9:]]
    assert min(spreads) > 0.05


def test_every_width_is_asked_once_and_lies_in_the_box(chain):
    problem = Problem(1)
    bayes = Bayes(chain, costs=problem.costs, evals=20, prior_points=6, low=0.5, high=0.8, batch=4)
    run_search(bayes, problem.errors, problem.costs)
    kept = [t.width.kept for t in bayes.trials]
    assert len(set(kept)) == len(kept) == 20
    low, high = (chain.space.uniform(r).kept for r in (0.5, 0.8))
    assert all(a <= k <= b for row in kept for a, k, b in zip(low, row, high, strict=True))
    assert low in kept
    assert high in kept


@pytest.mark.usefixtures("not_compiled")
def test_pending_proposals_of_a_batch_differ(chain):
    problem = Problem(2)
    for acquisition in ("optimistic", "ehvi"):
        bayes = Bayes(chain, costs=problem.costs, evals=12, prior_points=8, acquisition=acquisition, batch=4)
        run_search(bayes, problem.errors, problem.costs)
        assert len({t.width.kept for t in bayes.trials[-4:]}) == 4


def test_the_same_seed_gives_the_same_trials_and_another_others(chain):
    def trials(seed):
        bayes = Bayes(chain, costs=Problem(0).costs, evals=16, prior_points=8, seed=seed)
        run_search(bayes, Problem(0).errors, Problem(0).costs)
        return [t.width.kept for t in bayes.trials]

    assert trials(3) == trials(3) != trials(4)


def test_limits_are_the_targets_and_further_limits_hold(chain):
    full = chain.macs(1.0)
    budget = Budget(kind="macs", limits={"half": 0.5 * full, "third": 0.33 * full})
    limit = Budget(kind="params", limits={"few": 0.6 * chain.params(1.0)})
    bayes = Bayes(chain, evals=30, prior_points=6, budget=budget, limit=[limit])
    front = run_search(bayes, Problem(0).errors, closed_form(chain, "macs"))
    assert [m.label for m in front.members] == ["third", "half"]
    assert all(m.cost <= budget.limits[m.label] for m in front.members)
    assert all(chain.params(t.width) <= limit.limits["few"] for t in bayes.trials)
    late = [t.cost / full for t in bayes.trials[10:]]
    assert np.median([min(abs(c - 0.5), abs(c - 0.33)) for c in late]) < 0.03


def test_costs_without_a_formula_are_modelled(chain):
    """As latency: known only where it was measured."""
    bayes = Bayes(chain, kind="latency", evals=24, prior_points=10)

    def seconds(widths):
        return [1e-3 + 1e-9 * float(chain.macs(w)) for w in widths]

    front = run_search(bayes, Problem(0).errors, seconds)
    assert len(front.members) > 4
    assert [m.cost for m in front.members] == seconds([m.width for m in front.members])


def test_a_history_is_measured_again_and_bounded(chain):
    bayes = Bayes(chain, prior_points=6, history=8, seed=1)
    scale = 1.0
    for step in range(10):
        asked = bayes.to_measure()
        assert len(asked) <= 8
        assert len(asked) == min(2 * step, 8)
        assert {t.width for t in bayes.trials if t.error is None} <= set(asked)
        bayes.measured_([scale * e for e in Problem(0).errors(asked)] if asked else [])
        again = Bayes(chain, prior_points=6, history=8, seed=1)
        again.load_(bayes.state())
        assert again.next_() == bayes.next_()
        assert again.state() == bayes.state()
        scale *= 0.9
    asked = bayes.to_measure()
    bayes.measured_(Problem(0).errors(asked))
    assert {m.width for m in bayes.present_front().members} <= set(asked)


@pytest.mark.parametrize("batch", [1, 5])
def test_few_prior_points_are_followed_by_others_until_there_is_a_model(chain, batch):
    bayes = Bayes(chain, costs=Problem(0).costs, evals=10, prior_points=1, batch=batch)
    run_search(bayes, Problem(0).errors, Problem(0).costs)
    assert len({t.width.kept for t in bayes.trials}) == 10


def test_where_all_widths_were_proposed_those_of_the_front_are_trained_again():
    net = Elastic(SmallResNet(channels=(8, 16)), torch.zeros(1, 1, 8, 8), divisor=8)  # 4 widths
    bayes, proposed = Bayes(net, prior_points=3, batch=3), []
    for _ in range(5):
        asked = bayes.to_measure()
        bayes.measured_([1 / sum(w.kept) for w in asked])
        again = Bayes(net, prior_points=3, batch=3)
        again.load_(bayes.state())
        proposed.append(bayes.next_())
        assert again.next_() == proposed[-1]
    assert len(bayes.trials) == 4
    assert [len(widths) for widths in proposed] == [3] * 5
    front = {m.width for m in bayes.present_front().members}
    assert {w for widths in proposed[2:] for w in widths} == front


def test_costs_during_training_need_a_formula(chain):
    with pytest.raises(WidthError, match="choose kind macs or params"):
        Bayes(chain, kind="latency").next_()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 0.0}, "expected 0 < low < high <= 1, got 0.0"),
        ({"low": 0.9, "high": 0.5}, "got 0.9 and 0.5"),
        ({"low": 0.999}, "is one width only"),
        ({"batch": 0}, "batch = 0: expected a whole number from 1"),
        ({"evals": 5}, "evals = 5: expected more than prior_points"),
        ({"acquisition": "bold"}, "acquisition = 'bold': expected optimistic or reference or ehvi"),
        ({"sampling": "even"}, "sampling = 'even': expected uniform or pareto"),
        ({"tolerance": 0}, "tolerance = 0"),
        ({"beta": -1}, "beta = -1"),
        ({"beta": float("inf")}, "beta = inf: expected a number from 0"),
        ({"reference": float("nan")}, "reference = nan: expected a finite number"),
        ({"budget": Budget(kind="macs", limits={"none": 10.0})}, "the limit none (10) is outside"),
        (
            {"budget": Budget(kind="params", limits={"few": 1e4})},
            "the budget limits params, but costs are macs",
        ),
        ({"limit": [Budget(kind="params", limits={"few": 10.0})]}, "no width within 10"),
        ({"limit": [Budget(kind="latency", limits={"fast": 1.0})]}, "cannot be known before measuring"),
    ],
)
def test_settings_that_cannot_be(chain, options, message):
    with pytest.raises(WidthError) as caught:
        Bayes(chain, **options)
    assert message in str(caught.value)


def test_a_log_is_recalled_without_thinking_again(chain, tmp_path, monkeypatch):
    def search():
        bayes = Bayes(chain, costs=Problem(0).costs, evals=14, prior_points=6)
        return run_search(bayes, Problem(0).errors, Problem(0).costs, log=tmp_path / "log.jsonl")

    front = search()
    monkeypatch.setattr(Bayes, "_propose", lambda *a: pytest.fail("proposed again"))
    assert search() == front
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text().replace('"widths": [[', '"widths": [[1, ', 1))
    with pytest.raises(CheckpointError, match="line 2 is damaged"):
        search()
