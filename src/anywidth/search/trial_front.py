"""From trials to a front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anywidth.cost.budget import Budget, Kind
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.search.front import Front, Member, undominated
from anywidth.search.history import Trial


def front_of_trials(
    net: Elastic, trials: Sequence[Trial], kind: Kind, budget: Budget | None, about: dict[str, Any]
) -> Front:
    """The best within each limit of a budget; without one all that none dominates, called by their share of the MACs.

    Raises:
        WidthError: nothing was measured, or nothing within a limit.
    """
    full = float(net.macs(net.space.full))
    members = [_member(net, trial) for trial in trials]
    if not members:
        raise WidthError("search: no width was measured yet")
    if budget is None:
        best_members = [replace(m, label=label) for m, label in _named(undominated(members), full)]
    else:
        best_members = [
            best_within(members, label, limit) for label, limit in reversed(budget.limits.items())
        ]
    return Front(members=tuple(best_members), budget=kind, about=about)


def best_within(members: Sequence[Member], label: str, limit: float) -> Member:
    """The one with the smallest error that costs at most the limit.

    Raises:
        WidthError: none does.
    """
    inside = [m for m in members if m.cost <= limit]
    if not inside:
        raise WidthError(f"budget {label}: no width was found that costs at most {limit:g}")
    return replace(min(inside, key=lambda m: (m.error, m.cost)), label=label)


def _member(net: Elastic, trial: Trial) -> Member:
    assert trial.error is not None
    macs, params = int(net.macs(trial.width)), int(net.params(trial.width))
    return Member(label="", width=trial.width, cost=trial.cost, error=trial.error, macs=macs, params=params)


def _named(members: Sequence[Member], full: float) -> list[tuple[Member, str]]:
    member_of_label: dict[str, Member] = {}
    for member in members:
        label = f"{member.macs / full:.3f}"
        # Two members can agree in the first three digits of their share: 0.500 and 0.500'.
        while label in member_of_label:
            label += "'"
        member_of_label[label] = member
    return [(member, label) for label, member in member_of_label.items()]
