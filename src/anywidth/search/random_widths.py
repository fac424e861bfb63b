"""Random search: the baseline of every other one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anywidth.cost.budget import Budget, Costs, Kind
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.search.candidates import Box
from anywidth.search.front import Front
from anywidth.search.history import Trial
from anywidth.search.trial_front import front_of_trials
from anywidth.settings import configured, takes_fields_of
from anywidth.space.width import Width

_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """How `Random` draws.

    Attributes:
        kind: what a cost is.
        evals: widths to ask for in all.
        batch: widths asked at once.
        low, high: range of the ratios.
        seed: of the widths.
    """

    kind: Kind = "macs"
    evals: int = 1000
    batch: int = 20
    low: float = 0.25
    high: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.evals < 1 or self.batch < 1:
            raise WidthError(f"search: expected evals >= 1 and batch >= 1, got {self.evals} and {self.batch}")


class Random:
    """Widths with an independent, uniform ratio for every channel group.

    Args:
        net: the network.
        config: the settings, of which `settings` may give some one by one.
        budget: limits; without any the front is all that none dominates.
    """

    @takes_fields_of(RandomConfig)
    def __init__(
        self,
        net: Elastic,
        config: RandomConfig | None = None,
        *,
        budget: Budget | None = None,
        **settings: Any,
    ) -> None:
        self.config = configured(RandomConfig, config, settings)
        self.net, self.budget = net, budget
        self.box = Box(net.space, self.config.low, self.config.high)
        self.trials: list[Trial] = []

    def identity(self) -> dict[str, Any]:
        return {
            "searcher": "random", "kind": self.config.kind, "evals": self.config.evals, "batch": self.config.batch, "low": self.box.low,
            "high": self.box.high, "seed": self.config.seed, "groups": list(self.net.space.names),
            "sizes": list(self.net.space.full.kept), **({} if self.budget is None else {"limits": self.budget.limits}),
        }  # fmt: skip

    def ask(self, costs: Costs) -> list[Width]:
        """The next widths, none of them asked before."""
        random = np.random.default_rng([self.config.seed, len(self.trials)])
        asked = {t.width.kept for t in self.trials}
        proposals: dict[tuple[int, ...], Width] = {}
        count = min(self.config.batch, self.config.evals - len(self.trials))
        for _ in range(_TRIES * count):
            if len(proposals) == count:
                break
            width = self.box.width(self.box.units(random.random((1, self.box.dims)))[0])
            if width.kept not in asked:
                proposals.setdefault(width.kept, width)
        return list(proposals.values())

    def tell(self, widths: Sequence[Width], costs: Sequence[float], errors: Sequence[float]) -> None:
        """Remember."""
        self.trials += [
            Trial(width=w, cost=float(c), error=float(e))
            for w, c, e in zip(widths, costs, errors, strict=True)
        ]

    def front(self) -> Front:
        provenance = {**self.identity(), "evaluated": len(self.trials)}
        return front_of_trials(self.net, self.trials, self.config.kind, self.budget, provenance)
