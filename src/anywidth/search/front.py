"""A Pareto front of widths: what a search returns, in memory and as a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anywidth.errors import CheckpointError
from anywidth.files import write_json
from anywidth.width import Width

_FORMAT = "anywidth.front/1"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One width of a front.

    Attributes:
        label: its name.
        width: channels per group.
        cost: in the unit of the front's budget: MACs, parameters, or seconds.
        error: in [0, 1], as the search measured it.
        macs, params: at this width.
    """

    label: str
    width: Width
    cost: float
    error: float
    macs: int
    params: int


@dataclass(frozen=True, kw_only=True)
class Front:
    """The best width that was found within each limit of a budget, the cheapest first.

    Attributes:
        members: the widths; two limits may have the same one.
        budget: what costs are: "macs", "params" or "latency".
        about: how the front was found: searcher, settings, numbers of evaluations.
    """

    members: tuple[Member, ...]
    budget: str
    about: dict[str, Any] = field(default_factory=dict)


def undominated(members: Iterable[Member]) -> tuple[Member, ...]:
    """Those for which no other is as cheap and as good, and cheaper or better; the cheapest first."""
    best: list[Member] = []
    for member in sorted(members, key=lambda m: (m.cost, m.error)):
        if not best or member.error < best[-1].error:
            best.append(member)
    return tuple(best)


def write_front(path: Path, front: Front) -> None:
    """Write a front as JSON, whole or not at all."""
    rows = [
        {
            "label": m.label,
            "cost": m.cost,
            "error": m.error,
            "macs": m.macs,
            "params": m.params,
            "width": m.width.to_json(),
        }
        for m in front.members
    ]
    write_json(path, {"format": _FORMAT, "budget": front.budget, "about": front.about, "members": rows})


def read_front(path: Path) -> Front:
    """Read what `write_front` wrote.

    Raises:
        CheckpointError: no such file, or not the file of a front.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; `anywidth search RUN` writes a front") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); search again") from None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: is not a front of widths of the format {_FORMAT!r}; search again")
    try:
        members = tuple(Member(**{**row, "width": Width.from_json(row["width"])}) for row in data["members"])
        labels = [member.label for member in members]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError("labels that are not all different, or none")
        return Front(members=members, budget=data["budget"], about=data["about"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the front is damaged ({error}); search again") from None


def named(front: Front, label: str, path: Path) -> Member:
    """The member of that name.

    Raises:
        CheckpointError: there is none.
    """
    for member in front.members:
        if member.label == label:
            return member
    raise CheckpointError(f"{path}: no width is called {label!r}; there are {_listed(front.members)}")


def _listed(members: Sequence[Member]) -> str:
    return ", ".join(member.label for member in members)
