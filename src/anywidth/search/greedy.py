"""Greedy slimming: from the widest network down, one step in one channel group at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from anywidth.cost.budget import Budget, Costs
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.search.front import Front, Member
from anywidth.search.group_steps import group_steps
from anywidth.space.width import Width

Criterion = Literal["error", "error_per_cost"]


class Greedy:
    """AutoSlim's search: every group is tried one step narrower, and the step that hurts least is taken.

    Args:
        net: trained at random widths.
        budget: limits; passing each on the way down gives one width.
        steps: into how many steps a group is cut, or group -> channels of a step.
        criterion: "error": the smallest error, as published; "error_per_cost": the smallest rise of the error for what
            the step saves.

    Source: Yu and Huang, arXiv 1903.11728, algorithm 1. The widths it passes are kept at the first that costs at most
    the limit.
    """

    def __init__(
        self,
        net: Elastic,
        budget: Budget,
        *,
        steps: int | Mapping[str, int] = 12,
        criterion: Criterion = "error",
        start: Width | None = None,
    ) -> None:
        if criterion not in ("error", "error_per_cost"):
            raise WidthError(f"search: unknown criterion {criterion!r}; use 'error' or 'error_per_cost'")
        self.net, self.budget, self.criterion = net, budget, criterion
        self.steps = group_steps(net.space, steps)
        self.start = net.space.full if start is None else net.space.check(start)
        if not self.start.is_prefix:
            raise WidthError(
                "search: the start keeps chosen units; greedy slimming needs the first units of every group"
            )
        self.least = net.space.smallest.kept
        self.waiting = list(budget.limits.items())
        self.members: list[Member] = []
        self.now: Width | None = None
        self.cost, self.error = math.inf, 1.0
        self.rounds = self.evaluated = 0

    def identity(self) -> dict[str, Any]:
        begun = {} if self.start == self.net.space.full else {"start": list(self.start.kept)}
        return {
            "searcher": "greedy",
            "budget": self.budget.kind,
            "limits": self.budget.limits,
            "steps": self.steps,
            "criterion": self.criterion,
            "groups": list(self.net.space.names),
            "sizes": list(self.net.space.full.kept),
            **begun,
        }

    def ask(self, costs: Costs) -> list[Width]:
        """First the start; then each group one step narrower."""
        if not self.waiting:
            return []
        if self.now is None:
            return [self.start]
        candidates = []
        for group, step in enumerate(self.steps):
            kept = list(self.now.kept)
            if kept[group] > self.least[group]:
                kept[group] = max(kept[group] - step, self.least[group])
                candidates.append(Width(names=self.now.names, kept=tuple(kept)))
        if not candidates:
            label, limit = self.waiting[0]
            raise WidthError(
                f"budget {label}: the smallest width still costs {self.cost:g}, more than {limit:g}"
            )
        return candidates

    def tell(self, widths: Sequence[Width], costs: Sequence[float], errors: Sequence[float]) -> None:
        """Take the best step; of equal ones the first."""
        # From 1.0 down with the limits 75 % and 50 %: the first width that costs at most 75 % becomes the member of that label, and
        # the search continues from it. One step may pass several limits, hence the loop.
        scores = [self._score(cost, error) for cost, error in zip(costs, errors, strict=True)]
        best = min(range(len(widths)), key=scores.__getitem__)
        self.now, self.cost, self.error = widths[best], costs[best], errors[best]
        self.rounds += 1
        self.evaluated += len(widths)
        while self.waiting and self.cost <= self.waiting[0][1]:
            label, _ = self.waiting.pop(0)
            self.members.append(
                Member(
                    label=label,
                    width=self.now,
                    cost=self.cost,
                    error=self.error,
                    macs=int(self.net.macs(self.now)),
                    params=int(self.net.params(self.now)),
                )
            )

    def _score(self, cost: float, error: float) -> tuple[float, float]:
        """Smaller is better; of equal ones the step that saves most.

        Falling errors are divided by the saving too. To call every such step free and take the one that saves most was
        tried: measurement noise then picks steps that save much and are not free (docs/results.md).
        """
        if self.criterion == "error" or self.now is None:
            return error, 0.0
        saved = self.cost - cost
        return (error - self.error) / saved if saved > 0 else math.inf, -saved

    def front(self) -> Front:
        provenance = {**self.identity(), "rounds": self.rounds, "evaluated": self.evaluated}
        return Front(members=tuple(reversed(self.members)), budget=self.budget.kind, about=provenance)
