"""Joslim's search: multi-objective Bayesian optimisation over the widths of all channel groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from anywidth.cost.budget import Budget, ClosedForm, Costs, closed_form
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.search.bayes_config import BayesConfig
from anywidth.search.candidates import Box, Rows, quasi_random, within
from anywidth.search.error_model import Model
from anywidth.search.front import Front
from anywidth.search.history import Trial, representatives
from anywidth.search.processes import ALONE, Together
from anywidth.search.surrogate import require_botorch
from anywidth.search.trial_front import front_of_trials
from anywidth.settings import configured, takes_fields_of
from anywidth.space.width import Width


class Bayes:
    """Proposes widths whose measurement most improves the curve of errors against costs.

    A Gaussian process models the error as a function of the widths; costs are known, in closed form (a latency is modelled
    too). Each proposal has a cost target of its own, and is the width of about that cost whose error bound is lowest.
    After training, it is a searcher as `Greedy` and `Evolve`; during training, errors of the same widths are measured again
    with the current weights (`to_measure`, `measured_`, `propose`).

    What is proposed depends on the seed, the settings and the measurements alone, so a search continues after a crash as if
    there had been none.

    Args:
        net: the network.
        config: the settings, of which `settings` may give some one by one.
        costs: of widths; by default the closed form of that kind. Costs without a formula (`ClosedForm`) are modelled.
        budget: limits that serve as cost targets, one after the other.
        limit: largest costs of other kinds, that every width has to meet.
        together: several processes, of which the first proposes.

    Raises:
        WidthError: a setting out of its range, or a limit that no width meets.
        AnywidthError: botorch is not installed.

    Source: Chin et al., arXiv 2007.11752, algorithm 1 and section 3.2. Different from it: the bound, costs that are known
    instead of modelled, warm-up widths that differ between groups, and pending proposals that are accounted for.
    """

    @takes_fields_of(BayesConfig)
    def __init__(
        self,
        net: Elastic,
        config: BayesConfig | None = None,
        *,
        costs: Costs | None = None,
        budget: Budget | None = None,
        limit: Sequence[Budget] = (),
        together: Together = ALONE,
        **settings: Any,
    ) -> None:
        require_botorch()
        self.config = configured(BayesConfig, config, settings)
        self.net, self.budget, self.limit, self.together = net, budget, tuple(limit), together
        self.box = Box(net.space, self.config.low, self.config.high)
        self.cost_of = _rows(
            closed_form(net, self.config.kind) if costs is None and self.config.kind != "latency" else costs
        )
        self.limits = [(_known(net, b), value) for b in self.limit for value in b.limits.values()]
        self._check_limits()
        self.full_cost = 1.0 if self.cost_of is None else self._full(self.cost_of)
        self.trials: list[Trial] = []
        self._fresh: list[int] | None = None
        self._repeated = 0

    def _full(self, cost: Rows) -> float:
        return float(cost(np.array([self.net.space.full.kept]))[0])

    def _check_limits(self) -> None:
        for cost, value in self.limits:
            min_cost = float(cost(self.box.least[None])[0])
            if min_cost > value:
                raise WidthError(
                    f"search: no width within {value:g}: that of ratio {self.config.low:g} costs {min_cost:g}"
                )
        if self.budget is not None and self.budget.kind != self.config.kind:
            raise WidthError(
                f"search: the budget limits {self.budget.kind}, but costs are {self.config.kind}; give further limits as limit="
            )
        if self.budget is not None and self.cost_of is not None:
            low, high = (float(c) for c in self.cost_of(np.stack([self.box.least, self.box.most])))
            for label, value in self.budget.limits.items():
                if not low <= value <= high:
                    raise WidthError(
                        f"search: the limit {label} ({value:g}) is outside what ratios {self.config.low:g} to "
                        f"{self.config.high:g} cost: {low:g} to {high:g}"
                    )

    def identity(self) -> dict[str, Any]:
        limits = {} if self.budget is None else {"limits": self.budget.limits}
        other_limits = {"limit": [[b.kind, b.limits] for b in self.limit]} if self.limit else {}
        return {
            "searcher": "bayes",
            **asdict(self.config),
            **limits,
            **other_limits,
            "groups": list(self.net.space.names),
            "sizes": list(self.net.space.full.kept),
        }

    # --- as a searcher -------------------------------------------------------------------------------------------

    def recall_(self, rows: Sequence[Sequence[int]]) -> list[Width]:
        """What was asked before, by units: a proposal depends on the trials alone, so it need not be made again."""
        return [self.net.space.check(Width(names=self.net.space.names, kept=tuple(row))) for row in rows]

    def ask(self, costs: Costs) -> list[Width]:
        """The next widths, none of them asked before; nothing once there were `evals`, or no new one is found."""
        evals = self.config.evals
        remaining = self.config.batch if evals is None else evals - len(self.trials)
        return self.propose(min(remaining, self.config.batch)) if remaining > 0 else []

    def tell(self, widths: Sequence[Width], costs: Sequence[float], errors: Sequence[float]) -> None:
        """Remember."""
        for width, cost, error in zip(widths, costs, errors, strict=True):
            self.trials.append(Trial(width=width, cost=float(cost), error=float(error)))

    def front(self) -> Front:
        """The best within each limit of the budget; without one, all that none dominates."""
        measured = [t for t in self.trials if t.error is not None]
        provenance = {**self.identity(), "evaluated": len(self.trials)}
        return front_of_trials(self.net, measured, self.config.kind, self.budget, provenance)

    # --- during training -----------------------------------------------------------------------------------------

    def to_measure(self) -> list[Width]:
        """The widths whose errors the model will learn from: to be measured with the current weights."""
        # history = 100 with 30 trials that were never measured: these 30, and 70 that represent the measured ones.
        known = [i for i, t in enumerate(self.trials) if t.error is not None]
        new = [i for i, t in enumerate(self.trials) if t.error is None]
        room = max(0, self.config.history - len(new))
        kept = self._representatives(known, room) if room else []
        self._fresh = sorted(kept + new)
        return [self.trials[i].width for i in self._fresh]

    def measured_(self, errors: Sequence[float]) -> None:
        """The answers, in the order of `to_measure`; older errors count no more."""
        assert self._fresh is not None
        for i, error in zip(self._fresh, errors, strict=True):
            self.trials[i] = replace(self.trials[i], error=float(error))

    def next_(self) -> list[Width]:
        """Propose a batch, and remember it as trials that are not measured yet.

        Where no new width is left, those of the present front are trained again in turn.

        Raises:
            WidthError: costs have no formula.
        """
        if self.cost_of is None:
            raise WidthError("search: during training costs need a formula: choose kind macs or params")
        proposed = self.propose(self.config.batch)
        costs = self.cost_of(np.array([w.kept for w in proposed])) if proposed else []
        self.trials += [Trial(width=w, cost=float(c)) for w, c in zip(proposed, costs, strict=True)]
        return [*proposed, *self._again(self.config.batch - len(proposed))]

    def _again(self, count: int) -> list[Width]:
        front = self.present_front().members if count and self._fresh else ()
        repeats = [front[(self._repeated + i) % len(front)].width for i in range(min(count, len(front)))]
        self._repeated += len(repeats)
        return repeats

    def present_front(self) -> Front:
        """What none dominates among the widths that were measured last."""
        indices = range(len(self.trials)) if self._fresh is None else self._fresh
        measured = [self.trials[i] for i in indices if self.trials[i].error is not None]
        provenance = {**self.identity(), "evaluated": len(self.trials)}
        return front_of_trials(self.net, measured, self.config.kind, self.budget, provenance)

    def state(self) -> dict[str, Any]:
        """Plain data from which `load_` continues."""
        return {
            "trials": [[list(t.width.kept), t.cost, t.error] for t in self.trials],
            "fresh": self._fresh,
            "repeated": self._repeated,
        }

    def load_(self, state: dict[str, Any]) -> None:
        names = self.net.space.names
        self.trials = [
            Trial(width=Width(names=names, kept=tuple(kept)), cost=cost, error=error)
            for kept, cost, error in state["trials"]
        ]
        self._fresh, self._repeated = state["fresh"], state["repeated"]

    # --- proposals -----------------------------------------------------------------------------------------------

    def propose(self, count: int) -> list[Width]:
        """Up to `count` new widths, fewer if the space has no more; the first process decides."""
        return self.together.from_first(lambda: self._propose(count))

    def _propose(self, count: int) -> list[Width]:
        # The generator depends on the seed and the number of trials alone, so that a replayed search draws the same numbers
        # wherever it was interrupted. The model is fitted once a batch; `model.ranked` takes the earlier proposals of the batch
        # as known.
        random = np.random.default_rng([self.config.seed, len(self.trials)])
        asked = {t.width.kept for t in self.trials}
        proposals: list[np.ndarray] = []
        model: Model | None = None
        for trial_index in range(len(self.trials), len(self.trials) + count):
            if trial_index <= self.config.prior_points:
                ranked = self._warm_up(trial_index, random)
            else:
                model = model or self._model()
                ranked = self._any(random) if model is None else model.ranked(random, trial_index, proposals)
            new = next((u for u in ranked if tuple(u.tolist()) not in asked), None)
            # All candidates of the model were asked before (a small space, or a converged model): any new width will do.
            if new is None:
                new = next((u for u in self._any(random) if tuple(u.tolist()) not in asked), None)
            if new is None:
                break
            asked.add(tuple(new.tolist()))
            proposals.append(new)
        return [self.box.width(u) for u in proposals]

    def _warm_up(self, trial_index: int, random: np.random.Generator) -> np.ndarray:
        """Widths to ask before there is a model, the preferred one first."""
        # prior_points = 20: even trials are uniform (0, 0.1, 0.2, ... of the range), odd ones differ between groups, and trial 20
        # is the widest network. "reference" draws a uniform width each time, as the released code does.
        dims, prior = self.box.dims, self.config.prior_points
        if trial_index == prior:
            shares = np.ones((1, dims))
        elif self.config.acquisition == "reference":
            shares = np.full((1, dims), random.random())
        elif trial_index % 2 == 0:  # all groups alike, from the narrowest on
            shares = np.full((1, dims), trial_index / max(1, prior))
        else:
            seeded = np.random.default_rng([self.config.seed, 1])
            shares = quasi_random(seeded, max(1, prior), dims)[trial_index : trial_index + 1]
        return self.box.units(self._allowed(shares))

    def _any(self, random: np.random.Generator) -> np.ndarray:
        return self.box.units(self._allowed(quasi_random(random, 256, self.box.dims)))

    def _allowed(self, shares: np.ndarray) -> np.ndarray:
        """Narrowed until every limit holds."""
        for cost, value in self.limits:
            shares = within(self.box, cost, shares, value)
        return shares

    def _learning(self) -> list[Trial]:
        """The trials that the model learns from."""
        if self._fresh is not None:
            return [self.trials[i] for i in self._fresh if self.trials[i].error is not None]
        known = [i for i, t in enumerate(self.trials) if t.error is not None]
        return [self.trials[i] for i in self._representatives(known, self.config.history)]

    def _representatives(self, known: Sequence[int], at_most: int) -> list[int]:
        costs = np.array([self.trials[i].cost for i in known])
        errors = np.array([self.trials[i].error for i in known], float)
        random = np.random.default_rng([self.config.seed, len(self.trials), 2])
        return [known[i] for i in representatives(costs, errors, at_most=at_most, random=random)]

    def _model(self) -> Model | None:
        trials = self._learning()
        if len(trials) < 3:
            return None
        return Model(
            self.box,
            trials,
            self.config,
            cost_of=self.cost_of,
            full_cost=self.full_cost,
            budget=self.budget,
            allowed=self._allowed,
        )


def _rows(costs: Costs | None) -> Rows | None:
    """The formula of costs; None for those that have to be measured."""
    return (lambda units: np.asarray(costs.rows(units), float)) if isinstance(costs, ClosedForm) else None


def _known(net: Elastic, budget: Budget) -> Rows:
    if budget.kind == "latency":
        raise WidthError("search: a limit on latency cannot be known before measuring; use macs or params")
    rows = _rows(closed_form(net, budget.kind))
    assert rows is not None
    return rows
