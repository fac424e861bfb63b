"""A mean cost that is met: a bias on the logits, proportional to what each choice costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anywidth.cost.cost_model import Convention
from anywidth.errors import WidthError
from anywidth.gating.routes import Routes
from anywidth.gating.tree import Node, chosen

_HALVINGS = 60


@dataclass(frozen=True, kw_only=True)
class RouteCosts:
    """Multiply-adds of all routes, gates included.

    Attributes:
        routes: (choices, ..., choices), one dimension for each gate, float64.
        shares: for each gate, (choices,) what a choice costs, from 0 for the cheapest to 1 for the most expensive.
    """

    routes: Tensor
    shares: tuple[Tensor, ...]

    @property
    def reachable(self) -> tuple[float, float]:
        return float(self.routes.min()), float(self.routes.max())

    def of(self, routes: Tensor) -> Tensor:
        """(N, gates) choices -> (N,) costs."""
        return self.routes[tuple(routes.to(self.routes.device).T)]


def costs_of(routes: Routes, gate_macs: int = 0, convention: Convention = "anywidth") -> RouteCosts:
    """The costs of routes; `gate_macs` is added to each."""
    # One gate with routes of 100, 150 and 200 multiply-adds: shares (0, 0.5, 1). With more gates, a gate is
    # varied while the others choose the narrowest width.
    shape = [routes.choices] * len(routes.gates)
    table = torch.tensor(
        [routes.macs(route, convention) + gate_macs for route in routes.all()], dtype=torch.float64
    ).reshape(shape)
    shares = []
    for gate in range(len(shape)):
        line = table[tuple(slice(None) if g == gate else 0 for g in range(len(shape)))]
        shares.append((line - line.min()) / (line.max() - line.min()).clamp_min(1))
    return RouteCosts(routes=table, shares=tuple(shares))


def check_target(target: float, costs: RouteCosts) -> None:
    """Refuse a mean cost that no routing has.

    Raises:
        WidthError: with the range.
    """
    low, high = costs.reachable
    if not low <= target <= high:
        raise WidthError(
            f"gate: a target of {target:g} multiply-adds is out of reach: these widths cost {low:g} to {high:g}"
        )


def biases(costs: RouteCosts, strength: float) -> list[Tensor]:
    """For each gate (choices,) what is added to its logits: positive strengths favour narrow widths."""
    return [-strength * share for share in costs.shares]


def bias_for(nodes: Sequence[Node], costs: RouteCosts, target: float) -> float:
    """The strength of the bias at which the mean cost over the inputs is the target, as nearly as their number allows.

    Args:
        nodes: all gates on all routes, for inputs that stand for those to come.
        costs: of the routes.
        target: mean multiply-adds.

    Raises:
        WidthError: a target out of reach.
    """
    check_target(target, costs)
    # At a strength of +-reach the bias outweighs every difference of logits, so the mean cost there is the
    # lowest or the highest there is. Between them it falls as the strength grows (nearly always, with several
    # gates), in steps of single inputs: bisection, which keeps the closest value that it met.
    reach = 1 + 2 * max(float(node.logits.detach().abs().max()) for node in nodes)
    reach /= min((float(share[share > 0].min()) for share in costs.shares if share.any()), default=1.0)
    low, high = -reach, reach
    best, nearest = 0.0, float("inf")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        mean = float(costs.of(chosen(nodes, _like(nodes, biases(costs, middle)))).mean())
        if abs(mean - target) < nearest:
            best, nearest = middle, abs(mean - target)
        if mean > target:
            low = middle
        else:
            high = middle
    return best


def _like(nodes: Sequence[Node], values: Sequence[Tensor]) -> list[Tensor]:
    return [v.to(nodes[0].logits) for v in values]


def set_bias_(gates: Sequence[torch.nn.Module], costs: RouteCosts, strength: float) -> None:
    """Give every gate its bias."""
    for gate, bias in zip(gates, biases(costs, strength), strict=True):
        gate.bias.copy_(bias)  # pyright: ignore[reportCallIssue, reportArgumentType]


def joined(batches: Sequence[Sequence[Node]]) -> list[Node]:
    """The nodes of several batches as those of one, without gradients."""
    return [
        Node(route=same[0].route, logits=torch.cat([node.logits.detach() for node in same]))
        for same in zip(*batches, strict=True)
    ]
