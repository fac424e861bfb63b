"""A network cut into parts that run one after the other, at the outputs of named modules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anywidth.errors import TraceError
from anywidth.width import unknown_name


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a network is cut.

    Attributes:
        at: module path; what comes after its output belongs to the next part.
        feature: module path, no later than `at`, whose output the part hands out beside what the next part needs; by
            default `at` itself.
    """

    at: str
    feature: str | None = None

    @property
    def seen(self) -> str:
        return self.at if self.feature is None else self.feature


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a network.

    Attributes:
        module: takes what the part before hands on (the first one: the inputs); returns (feature, *what the next part
            needs), the last one the output of the network.
        tensors: names of the network's parameters and buffers that it uses.
    """

    module: fx.GraphModule
    tensors: frozenset[str]


class _Tracer(fx.Tracer):
    """Remembers which value each module gave last."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, fx.Node] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # Batch norms of other packages (synchronised ones) decide in Python what they do.
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        found = super().call_module(m, forward, args, kwargs)
        if isinstance(found, fx.Proxy):
            self.outputs[path] = found.node
        return found


def split(module: nn.Module, cuts: Sequence[Cut]) -> list[Part]:
    """Cut a network; the parts share its modules.

    Args:
        module: without branches that depend on values (torch.fx traces it).
        cuts: in the order in which the network runs.

    Returns:
        len(cuts) + 1 parts.

    Raises:
        TraceError: it cannot be traced, a cut names no module that gives one tensor, or cuts are out of order.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(module)
    except Exception as error:
        raise TraceError(
            f"{type(module).__name__} cannot be cut into parts, as torch.fx cannot trace it: {' '.join(str(error).split())}"
        ) from error
    order = {node: i for i, node in enumerate(graph.nodes)}
    ends = [order[_output(tracer, module, cut.at)] for cut in cuts]
    seen = [_output(tracer, module, cut.seen) for cut in cuts]
    starts = [-1, *ends]
    for cut, before, end, feature in zip(cuts, starts, ends, seen, strict=False):
        if end <= before or not before < order[feature] <= end:
            raise TraceError(
                f"cut at '{cut.at}' with the feature '{cut.seen}': cuts go from the inputs to the output, and a feature lies "
                "between the cut before and its own"
            )
    parts = []
    nodes = list(graph.nodes)
    bounds = [*starts, len(nodes)]
    for number, (before, end) in enumerate(itertools.pairwise(bounds)):
        inside = nodes[before + 1 : end + 1]
        entering = [] if number == 0 else _alive(nodes, order, before)
        leaving = None if number == len(cuts) else [seen[number], *_alive(nodes, order, end)]
        parts.append(_part(module, inside, entering, leaving))
    return parts


def _output(tracer: _Tracer, module: nn.Module, path: str) -> fx.Node:
    if path not in tracer.outputs:
        raise TraceError(
            unknown_name("module to cut at", path, [name for name, _ in module.named_modules() if name])
        )
    return tracer.outputs[path]


def _alive(nodes: Sequence[fx.Node], order: dict[fx.Node, int], end: int) -> list[fx.Node]:
    """Values from up to `end` that are used after it, in their order; parameters are fetched where they are used."""
    return [
        node
        for node in nodes[: end + 1]
        if node.op != "get_attr" and any(order[user] > end for user in node.users)
    ]


def _part(
    module: nn.Module,
    inside: Sequence[fx.Node],
    entering: Sequence[fx.Node],
    leaving: Sequence[fx.Node] | None,
) -> Part:
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in entering}

    def known(node: fx.Node) -> fx.Node:
        if node not in made:  # a parameter that was fetched in an earlier part
            made[node] = graph.node_copy(node, known)
        return made[node]

    for node in inside:
        made[node] = graph.node_copy(node, known)
    if leaving is not None:
        graph.output(tuple(known(node) for node in leaving))
    used = fx.GraphModule(module, graph)
    used.delete_all_unused_submodules()
    return Part(module=used, tensors=frozenset(_tensors(module, graph)))


def _tensors(module: nn.Module, graph: fx.Graph) -> set[str]:
    names: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_module":
            inner = module.get_submodule(str(node.target))
            names |= {
                f"{node.target}.{name}" for name, _ in (*inner.named_parameters(), *inner.named_buffers())
            }
        elif node.op == "get_attr":
            names.add(str(node.target))
    return names


def run(parts: Sequence[Part], *inputs: Tensor) -> Tensor:
    """All parts one after the other: what the network computes."""
    values: Any = inputs
    for part in parts[:-1]:
        _, *values = part.module(*values)
    return parts[-1].module(*values)


__all__ = ["Cut", "Part", "run", "split"]
