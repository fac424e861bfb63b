"""Candidates in the order in which a model of the errors wants them measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from anywidth.cost.budget import Budget
from anywidth.search.acquisition import Scalarised, SeenScales, hypervolume_gain
from anywidth.search.bayes_config import BayesConfig
from anywidth.search.candidates import Box, Rows, at_cost, mutated, quasi_random
from anywidth.search.history import Trial, front_of, target_weights
from anywidth.search.surrogate import Prior, Surrogate

_POOL, _PARENTS, _REFINEMENTS = 2048, 32, 2


class Model:
    """What the trials tell about all widths, for the proposals of one batch.

    Args:
        box: where the widths lie.
        trials: measured ones.
        config: of `Bayes`.
        cost_of: units (N, groups) -> costs (N,); None where costs are only known for the trials.
        full_cost: of the widest network.
        budget: limits that are the targets.
        allowed: shares (N, groups) -> shares that may be asked for.
    """

    def __init__(
        self,
        box: Box,
        trials: Sequence[Trial],
        config: BayesConfig,
        *,
        cost_of: Rows | None,
        full_cost: float,
        budget: Budget | None,
        allowed: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.box, self.config, self.budget = box, config, budget
        self.cost_of, self.allowed = cost_of, allowed
        prior: Prior = "published" if self.config.acquisition == "reference" else "scaled"
        ard = self.config.ard and prior == "scaled"
        units = np.array([t.width.kept for t in trials])
        self.shares = self.box.shares(units)
        self.errors = np.array([t.error for t in trials])
        self.surrogate = Surrogate(self.shares, self.errors, ard=ard, prior=prior)
        costs = np.array([t.cost for t in trials])
        self.full = full_cost if cost_of else float(costs.max())
        self.costs = costs / self.full
        self.latency = (
            None if cost_of else Surrogate(self.shares, np.log(self.costs), ard=True, prior="scaled")
        )
        self.believed = 0

    def cost(self, units: np.ndarray) -> np.ndarray:
        """(N, groups) units -> shares of the widest network's cost."""
        if self.cost_of is not None:
            return self.cost_of(units) / self.full
        assert self.latency is not None
        return np.exp(self.latency.at(self.box.shares(units))[0])

    def ranked(
        self, random: np.random.Generator, trial_index: int, pending: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Units of candidates, the best first."""
        # Pool of 4096 rows of shares -> distinct units (U, groups), U <= 4096 -> the best 32 are the parents of the next pool; after two
        # refinements the last pool is ranked as a whole, as the best candidate may have been asked before.
        waiting = self.box.shares(np.array(pending)) if pending else np.empty((0, self.box.dims))
        target = self._target(random, trial_index)
        if self.config.acquisition == "ehvi":
            order = self._by_gain(waiting, seed=int(random.integers(2**31)))
        else:
            if len(waiting) > self.believed:
                self.surrogate.believe_(waiting[self.believed :])
                self.believed = len(waiting)
            order = self._by_bound(target)
        pool = self._pool(random, self._parents(), target)
        for _ in range(_REFINEMENTS):
            units = self._distinct(pool)
            best = order(units)[:_PARENTS]
            pool = np.concatenate(
                [self.box.shares(units[best]), self._pool(random, self.box.shares(units[best]), target)]
            )
        units = self._distinct(pool)
        return units[order(units)]

    def _parents(self) -> np.ndarray:
        return self.shares[front_of(self.costs, self.errors)]

    def _distinct(self, shares: np.ndarray) -> np.ndarray:
        return np.unique(self.box.units(self.allowed(shares)), axis=0)

    def _pool(self, random: np.random.Generator, parents: np.ndarray, target: float) -> np.ndarray:
        """Candidates: some anywhere, the others children of the parents; and all of them moved to about the target."""
        slow = self.latency is not None or self.config.acquisition == "ehvi"
        count = _POOL // 8 if slow else _POOL
        anywhere = quasi_random(random, count // 4, self.box.dims)
        shares = np.concatenate([anywhere, mutated(random, parents, count - len(anywhere))])
        near = at_cost(self.box, self.cost, shares, target * random.uniform(0.97, 1.03, count))
        return np.concatenate([shares, near])

    def _target(self, random: np.random.Generator, trial_index: int) -> float:
        """A cost to aim at, as a share of the widest network's."""
        if self.budget is not None:
            limits = list(self.budget.limits.values())
            return limits[trial_index % len(limits)] / self.full
        reached = np.concatenate([self.costs, self.cost(np.stack([self.box.least, self.box.most]))])
        targets = np.linspace(reached.min(), reached.max(), self.config.targets)
        weights = None
        if self.config.sampling == "pareto":
            weights = target_weights(targets, list(self.costs), list(self.errors))
        return float(random.choice(targets, p=weights))

    def _by_bound(self, target: float) -> Callable[[np.ndarray], np.ndarray]:
        scalarised = Scalarised(
            beta=self.config.beta,
            sign=1.0 if self.config.acquisition == "reference" else -1.0,
            reference=self.config.reference,
            tolerance=self.config.tolerance,
            rounds=self.config.rounds,
        )
        scales = SeenScales.of(self.errors, self.costs)
        return lambda units: scalarised.order(
            self.surrogate.at(self.box.shares(units)), self.cost(units), scales, target
        )

    def _by_gain(self, waiting: np.ndarray, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        gain = hypervolume_gain(
            self.surrogate,
            lambda shares: self.cost(self.box.nearest(shares)),
            self.shares,
            self.errors,
            pending=waiting,
            seed=seed,
        )
        return lambda units: np.argsort(-gain(self.box.shares(units)), kind="stable")
