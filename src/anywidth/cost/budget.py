"""Budgets of a search: how much a width costs, and the limits it must meet."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from anywidth.errors import WidthError
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width

Kind = Literal["macs", "params", "latency"]
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class Costs(Protocol):
    """Widths -> their costs: MACs, parameters, or seconds."""

    def __call__(self, widths: Sequence[Width]) -> Sequence[float]: ...


class Costed(Protocol):
    """A network with costs in closed form: `Elastic`, seen from here."""

    space: ChannelSpace

    def macs(self, w: Any) -> Any: ...

    def params(self, w: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is limited, and to how much.

    Attributes:
        kind: "macs", "params" or "latency".
        limits: label -> largest cost, the largest limit first.
    """

    kind: Kind
    limits: dict[str, float]


class ClosedForm:
    """Costs by a formula, for any number of widths at once.

    Args:
        rows: units (N, groups) -> costs (N,).
    """

    def __init__(self, rows: Callable[[np.ndarray], np.ndarray]) -> None:
        self.rows = rows

    def __call__(self, widths: Sequence[Width]) -> list[float]:
        return [float(c) for c in self.rows(np.array([w.kept for w in widths], np.int64))] if widths else []


def closed_form(net: Costed, kind: Literal["macs", "params"]) -> ClosedForm:
    """MACs or parameters without running anything, all widths at once."""
    return ClosedForm({"macs": net.macs, "params": net.params}[kind])


def parse(text: str, full: Callable[[Kind], float]) -> Budget:
    """A budget as it is typed: "macs=75%,50%", "params=2.5M", "latency=5ms".

    Args:
        text: kind=limits; a limit is a share of the widest network in per cent, or a number with a unit.
        full: kind -> cost of the widest network, for shares.

    Raises:
        WidthError: not of this form.
    """
    # "macs=75%, 50%" of a network with 100 MACs -> limits {"macs=75%": 75.0, "macs=50%": 50.0}.
    name, equals, limit_list = text.partition("=")
    if name not in get_args(Kind) or not equals:
        raise WidthError(
            f"budget {text!r}: expected macs=LIMITS, params=LIMITS or latency=LIMITS, like macs=75%,50%"
        )
    cost_kind: Kind = name  # pyright: ignore[reportAssignmentType]
    limits = {
        f"{name}={limit_text.strip()}": _limit(limit_text.strip(), cost_kind, full)
        for limit_text in limit_list.split(",")
    }
    return Budget(kind=cost_kind, limits=dict(sorted(limits.items(), key=lambda item: -item[1])))


def _limit(text: str, cost_kind: Kind, full: Callable[[Kind], float]) -> float:
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*(%|[a-zA-Z]*)", text)
    units = _SECONDS if cost_kind == "latency" else _UNITS
    if cost_kind == "latency" and match is not None and match[2] == "%":
        raise WidthError(
            f"budget latency={text!r}: a share would be measured anew at each start; give seconds, like latency=5ms"
        )
    if match is None or (match[2] != "%" and match[2] not in units):
        raise WidthError(
            f"budget {cost_kind}={text!r}: expected a number with one of %, {', '.join(filter(None, units))}"
        )
    try:
        amount = float(match[1])
    except ValueError:
        raise WidthError(f"budget {cost_kind}={text!r}: {match[1]!r} is no number") from None
    return amount / 100 * full(cost_kind) if match[2] == "%" else amount * units[match[2]]


def check(net: Costed, budget: Budget, costs: Costs) -> None:
    """Refuse limits that no width meets, or that all meet.

    Raises:
        WidthError: with the cost of the smallest and of the widest network.
    """
    if not budget.limits:
        raise WidthError("budget: no limits; name at least one, like macs=50%")
    low, high = costs([net.space.smallest, net.space.full])
    unit = {"macs": "MACs", "params": "parameters", "latency": "seconds"}[budget.kind]
    for label, limit in budget.limits.items():
        if not low <= limit <= high:
            raise WidthError(
                f"budget {label}: {limit:g} {unit} is outside what this network can have: the smallest width costs "
                f"{low:g}, the widest {high:g}"
            )


def largest_uniform(net: Costed, costs: Costs, limit: float) -> Width:
    """The widest uniform width within a limit: the one to beat.

    Raises:
        WidthError: none is.
    """
    # 400 ratios round to fewer distinct widths, in falling order of cost; bisection finds the first within the limit.
    ratios = [i / 400 for i in range(400, 0, -1)]
    widths = list(dict.fromkeys(net.space.uniform(ratio) for ratio in ratios))
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if costs([widths[middle]])[0] <= limit:
            high = middle
        else:
            low = middle + 1
    if costs([widths[low]])[0] > limit:
        raise WidthError(f"budget: not even the smallest width costs at most {limit:g}")
    return widths[low]
