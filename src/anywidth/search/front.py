"""A Pareto front of widths: what a search returns, in memory and as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from anywidth.errors import CheckpointError
from anywidth.files import write_json
from anywidth.space.width import Width

_T = TypeVar("_T")
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
        members: the widths, each with a label of its own; two limits may have the same one.
        budget: what costs are: "macs", "params" or "latency".
        about: how the front was found: searcher, settings, numbers of evaluations.
    """

    members: tuple[Member, ...]
    budget: str
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels = [member.label for member in self.members]
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(f"labels of a front must differ, and there must be one; got {labels}")


def undominated(members: Iterable[Member]) -> tuple[Member, ...]:
    """Those for which no other is as cheap and as good, and cheaper or better; the cheapest first."""
    # (cost, error): (1, 0.5) (2, 0.3) (2, 0.6) (3, 0.2) (4, 0.25) -> (1, 0.5) (2, 0.3) (3, 0.2). Sorted by cost, a member is on the
    # front if its error is below that of all cheaper ones.
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
        members = tuple(_member(row) for row in data["members"])
        return Front(members=members, budget=_of(str, data["budget"]), about=_of(dict, data["about"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the front is damaged ({error!r}); search again") from None


def _member(row: Any) -> Member:
    fields = _of(dict, row)
    return Member(
        label=_of(str, fields["label"]),
        width=_width(fields["width"]),
        cost=_finite(fields["cost"]),
        error=_finite(fields["error"]),
        macs=_of(int, fields["macs"]),
        params=_of(int, fields["params"]),
    )


def _width(data: Any) -> Width:
    for name, kept in _of(dict, data).items():
        units = [_of(int, unit) for unit in kept] if isinstance(kept, list) else [_of(int, kept) - 1]
        if not units or min(units) < 0:
            raise ValueError(f"{kept!r} units of the group {name!r}")
    return Width.from_json(data)


def _of(expected_type: type[_T], value: Any) -> _T:
    if not isinstance(value, expected_type) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {expected_type.__name__}")
    return value


def _finite(value: Any) -> float:
    if not isinstance(value, int):
        value = _of(float, value)
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return value


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
