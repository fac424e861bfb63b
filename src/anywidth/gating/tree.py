"""All routes of a batch at once: what each gate says, and what each route answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.errors import WidthError
from anywidth.gating.routes import Route, Routes

_MAX_ROUTES = 256


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
    # Two gates, three widths: 4 nodes and 9 leaves, from 1 + 3 + 9 = 13 segments instead of 9 * 3 = 27.
    count = routes.choices ** len(gates)
    if count > _MAX_ROUTES:
        raise WidthError(
            f"{len(gates)} gates with {routes.choices} widths make {count} routes, more than the {_MAX_ROUTES} that can be run for each "
            "batch; use fewer widths or gates"
        )
    nodes: list[Node] = []
    leaves: list[Leaf] = []
    for branch in _walk(routes, gates, (), (x,)):
        (nodes if isinstance(branch, Node) else leaves).append(branch)  # pyright: ignore[reportArgumentType]
    return nodes, leaves


def _walk(
    routes: Routes, gates: Sequence[nn.Module], route: Route, values: Sequence[Any]
) -> Iterator[Node | Leaf]:
    with torch.no_grad():
        segment_output = routes.part(len(route), route)(*values)
    if len(route) == len(gates):
        yield Leaf(route=route, output=segment_output)
        return
    feature, *values = segment_output
    yield Node(route=route, logits=gates[len(route)](feature))
    for choice in range(routes.choices):
        yield from _walk(routes, gates, (*route, choice), values)


def log_probabilities(nodes: Sequence[Node]) -> dict[Route, Tensor]:
    """Route, whole or not -> logarithm of its probability (N,) if each gate draws from the softmax of its logits."""
    log_p: dict[Route, Tensor] = {(): torch.zeros_like(nodes[0].logits[:, 0])}
    # Nodes come parents first: log p(1, 0) = log p(1) + log softmax(logits of node (1,))[0].
    for node in nodes:
        choice_log_p = node.logits.log_softmax(1)
        for choice in range(choice_log_p.shape[1]):
            log_p[(*node.route, choice)] = log_p[node.route] + choice_log_p[:, choice]
    return log_p


def chosen(nodes: Sequence[Node], bias: Sequence[Tensor] | None = None) -> Tensor:
    """(N, gates) the choice of each gate: the largest of its logits, plus `bias` (choices,) of that gate."""
    # Two gates: by_route has (), (0,), (1,). Gate 0 fills column 0 from node (); gate 1 fills column 1 of the inputs
    # that chose 0 from node (0,), and of those that chose 1 from node (1,).
    by_route = {node.route: node.logits for node in nodes}
    count = 1 + max(len(route) for route in by_route)
    root_logits = by_route[()]
    routes = torch.zeros(len(root_logits), count, dtype=torch.long, device=root_logits.device)
    for gate in range(count):
        for route in [r for r in by_route if len(r) == gate]:
            on_route = (routes[:, :gate] == routes.new_tensor(route)).all(1)
            logits = by_route[route] if bias is None else by_route[route] + bias[gate]
            routes[on_route, gate] = logits[on_route].argmax(1)
    return routes
