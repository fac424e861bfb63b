import numpy as np
import pytest

from anywidth.cost.budget import Budget, ClosedForm
from anywidth.search.bayes_config import BayesConfig
from anywidth.search.candidates import Box
from anywidth.search.error_model import Model
from anywidth.search.history import Trial
from anywidth.space.width import Width

CONFIG = BayesConfig(
    acquisition="optimistic",
    ard=False,
    beta=0.1,
    reference=-3.0,
    tolerance=0.02,
    rounds=12,
    targets=5,
    sampling="uniform",
)


def model_of(net, *, budget=None, allowed=lambda shares: shares, known=True) -> Model:
    box, random = Box(net.space, 0.25), np.random.default_rng(0)
    cost = ClosedForm(net.macs).rows
    units = np.unique(box.units(random.random((12, box.dims))), axis=0)
    trials = [
        Trial(width=Width(names=net.space.names, kept=tuple(map(int, row))), cost=float(cost(row[None])[0]), error=1 / row.sum())
        for row in units
    ]  # fmt: skip
    return Model(
        box, trials, CONFIG, cost_of=cost if known else None, full_cost=float(net.macs(1.0)), budget=budget, allowed=allowed,
    )  # fmt: skip


def test_costs_are_shares_of_the_widest_network(net):
    model = model_of(net)
    full = np.array([net.space.full.kept])
    assert model.cost(full) == pytest.approx([1.0])
    assert model.costs == pytest.approx(model.cost(model.box.units(model.shares)))


def test_costs_without_a_formula_are_modelled_between_those_that_were_measured(net):
    model = model_of(net, known=False)
    assert model.costs.max() == 1.0
    units = model.box.units(model.shares)
    np.testing.assert_allclose(model.cost(units), model.costs, rtol=0.15)


def test_ranked_candidates_differ_lie_in_the_box_and_begin_near_the_limit(net):
    limit = 0.5 * float(net.macs(1.0))
    model = model_of(net, budget=Budget(kind="macs", limits={"half": limit}))
    ranked = model.ranked(np.random.default_rng(1), 0, [])
    assert len(np.unique(ranked, axis=0)) == len(ranked)
    assert (ranked >= model.box.least).all()
    assert (ranked <= model.box.most).all()
    assert net.macs(Width(names=net.space.names, kept=tuple(map(int, ranked[0])))) == pytest.approx(
        limit, rel=0.25
    )


def test_only_what_is_allowed_is_ranked(net):
    model = model_of(net, allowed=lambda shares: np.minimum(shares, 0.5))
    ranked = model.ranked(np.random.default_rng(1), 0, [])
    assert (ranked <= model.box.units(np.full((1, model.box.dims), 0.5))).all()


def test_pending_widths_are_believed_once(net):
    model = model_of(net)
    pending = [np.array(net.space.smallest.kept)]
    for _ in range(2):
        model.ranked(np.random.default_rng(1), 0, pending)
        assert model.believed == 1
