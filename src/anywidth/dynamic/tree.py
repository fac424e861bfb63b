"""All routes of a batch at once: what each gate says, and what each route answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.dynamic.routes import Route, Routes
from anywidth.errors import WidthError

_MOST = 256


@dataclass(frozen=True, kw_only=True)
class Node:
    """A gate that was asked on some route.

    Attributes:
        route: what the gates before it chose.
        logits: (N, choices), with a gradient to the gate's weight.
    """

    route: Route
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """The output (N, ...) of a whole route, without gradient."""

    route: Route
    output: Tensor


def walk(routes: Routes, gates: Sequence[nn.Module], x: Tensor) -> tuple[list[Node], list[Leaf]]:
    """Run a batch through every route; parts that routes share run once, and the network gets no gradient.

    Args:
        routes: at most 256.
        gates: one for each.
        x: (N, ...).

    Raises:
        WidthError: more routes than can be run for each batch.
    """
    count = routes.choices ** len(gates)
    if count > _MOST:
        raise WidthError(
            f"{len(gates)} gates with {routes.choices} widths make {count} routes, more than the {_MOST} that can be run for each "
            "batch; use fewer widths or gates"
        )
    nodes: list[Node] = []
    leaves: list[Leaf] = []
    for found in _walk(routes, gates, (), (x,)):
        (nodes if isinstance(found, Node) else leaves).append(found)  # pyright: ignore[reportArgumentType]
    return nodes, leaves


def _walk(
    routes: Routes, gates: Sequence[nn.Module], route: Route, values: Sequence[Any]
) -> Iterator[Node | Leaf]:
    with torch.no_grad():
        found = routes.part(len(route), route)(*values)
    if len(route) == len(gates):
        yield Leaf(route=route, output=found)
        return
    feature, *values = found
    yield Node(route=route, logits=gates[len(route)](feature))
    for choice in range(routes.choices):
        yield from _walk(routes, gates, (*route, choice), values)


def log_probabilities(nodes: Sequence[Node]) -> dict[Route, Tensor]:
    """Route, whole or not -> logarithm of its probability (N,) if each gate draws from the softmax of its logits."""
    found: dict[Route, Tensor] = {(): torch.zeros_like(nodes[0].logits[:, 0])}
    for node in nodes:
        each = node.logits.log_softmax(1)
        for choice in range(each.shape[1]):
            found[(*node.route, choice)] = found[node.route] + each[:, choice]
    return found


def chosen(nodes: Sequence[Node], bias: Sequence[Tensor] | None = None) -> Tensor:
    """(N, gates) the choice of each gate: the largest of its logits, plus `bias` (choices,) of that gate."""
    by_route = {node.route: node.logits for node in nodes}
    count = 1 + max(len(route) for route in by_route)
    first = by_route[()]
    routes = torch.zeros(len(first), count, dtype=torch.long, device=first.device)
    for gate in range(count):
        for route in [r for r in by_route if len(r) == gate]:
            here = (routes[:, :gate] == routes.new_tensor(route)).all(1)
            logits = by_route[route] if bias is None else by_route[route] + bias[gate]
            routes[here, gate] = logits[here].argmax(1)
    return routes
