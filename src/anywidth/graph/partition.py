"""A network cut into parts that run one after the other, at the outputs of named modules."""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from anywidth.compat.layers import BatchNorm, DropoutLayer
from anywidth.compat.module_state import children_of
from anywidth.errors import TraceError, unknown_name
from anywidth.views import standing_for_tensors

_VIEWS = frozenset({"view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "expand",
                    "contiguous", "chunk", "split", "unbind", "narrow", "getitem"})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Where a network is cut.

    Attributes:
        at: module path; what comes after its output belongs to the next part.
        feature: module path, no later than `at`, whose output the part returns in addition to what the next part needs; by
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
        module: takes what the previous part passes on (the first one: the inputs); returns (feature, *what the next part
            needs), the last one the output of the network. It changes none of what it takes, and how many inputs a batch has
            it reads from what it takes.
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
        return isinstance(m, BatchNorm) or super().is_leaf_module(m, module_qualified_name)

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        """The graph of a module. The tensors of a view are read when the graph runs, not now."""
        self.read: dict[int, tuple[Any, str]] = {}
        with standing_for_tensors(root, self.read):
            return super().trace(root, concrete_args)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and id(a) in self.read:
            module, name = self.read[id(a)]
            return self.create_node(
                "call_module", f"{self.path_of_module(module)}.{name}".lstrip("."), (), {}
            )
        return super().create_arg(a)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.outputs[path] = output.node
        return output


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
    # Nodes x, stem, a, b, add, head with cuts at stem and add: parts [x, stem], [a, b, add], [head, output].
    #     starts -1 1 4, ends 1 4: part k holds the nodes after starts[k], up to and including ends[k].
    #     What lives on at a cut (`_alive`) is what the next part takes: a tensor that skips a part is handed through it.
    tracer = _Tracer()
    try:
        graph = tracer.trace(module)
    except Exception as error:
        raise TraceError(
            f"{type(module).__name__} cannot be cut into parts, as torch.fx cannot trace it: {' '.join(str(error).split())}"
        ) from error
    order = {node: i for i, node in enumerate(graph.nodes)}
    ends = [order[_output(tracer, module, cut.at)] for cut in cuts]
    features = [_output(tracer, module, cut.seen) for cut in cuts]
    starts = [-1, *ends]
    for cut, before, end, feature in zip(cuts, starts, ends, features, strict=False):
        if end <= before or not before < order[feature] <= end:
            raise TraceError(
                f"cut at '{cut.at}' with the feature '{cut.seen}': cuts go from the inputs to the output, and a feature lies "
                "between the cut before and its own"
            )
    segments = []
    nodes = list(graph.nodes)
    bounds = [*starts, len(nodes)]
    for index, (before, end) in enumerate(itertools.pairwise(bounds)):
        inside = nodes[before + 1 : end + 1]
        entering = [] if index == 0 else _alive(nodes, order, before)
        leaving = None if index == len(cuts) else [features[index], *_alive(nodes, order, end)]
        segments.append(_part(module, inside, entering, leaving, None if index == 0 else nodes[before]))
    return segments


def _output(tracer: _Tracer, module: nn.Module, path: str) -> fx.Node:
    if path not in tracer.outputs:
        raise TraceError(
            unknown_name("module to cut at", path, [name for name, _ in module.named_modules() if name])
        )
    return tracer.outputs[path]


def _alive(nodes: Sequence[fx.Node], order: dict[fx.Node, int], end: int) -> list[fx.Node]:
    """Values from up to `end` that are used after it, in their order; parameters are fetched where they are used, and inputs counted."""
    # A batch size x.size(0) is dropped where the output at the cut is passed on: the next part reads it from that tensor, so that
    # a part may be run on fewer inputs than the one before.
    used_later = [
        node
        for node in nodes[: end + 1]
        if not _fetches(node) and any(order[user] > end for user in node.users)
    ]
    return [node for node in used_later if _counted(node) is None] if nodes[end] in used_later else used_later


def _fetches(node: fx.Node) -> bool:
    """Whether a node fetches a parameter or buffer."""
    return node.op == "get_attr" or (node.op == "call_module" and not node.args and not node.kwargs)


def _counted(node: fx.Node) -> fx.Node | None:
    """The tensor whose inputs this value counts, as `x.size(0)` or `x.shape[0]`."""
    source: Any = node.args[0] if node.args else None
    if node.target == "size" and node.args[1:] == (0,) and not node.kwargs:
        counted_tensor = source
    elif _name(node) == "getitem" and node.args[1:] == (0,) and isinstance(source, fx.Node):
        shape = source.target == "size" and len(source.args) == 1 and not source.kwargs
        shape = shape or (source.target is getattr and source.args[1:] == ("shape",))
        counted_tensor = source.args[0] if shape else None
    else:
        return None
    return (
        counted_tensor
        if isinstance(counted_tensor, fx.Node) and counted_tensor.op in ("placeholder", "call_module")
        else None
    )


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _overwritten(module: nn.Module, inside: Sequence[fx.Node], among: Collection[fx.Node]) -> set[fx.Node]:
    """Those of `among` that operations change in place, through views too."""
    # relu_(x.view(...)): follow the views back from what is written to a node of `among`.
    overwritten = set()
    for node in inside:
        if not node.args or not _in_place(module, node):
            continue
        written: Any = node.args[0]
        while isinstance(written, fx.Node) and written not in among and _is_view(module, written):
            written = written.args[0]
        if written in among:
            overwritten.add(written)
    return overwritten


def _in_place(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(_target(module, node), "inplace", False))
    if node.op not in ("call_method", "call_function"):
        return False
    name = _name(node)
    if (name.endswith("_") and not name.endswith("__")) or node.kwargs.get("inplace"):
        return True
    if getattr(node.target, "__module__", "") == "_operator":
        return name in (
            "iadd",
            "isub",
            "imul",
            "itruediv",
            "ifloordiv",
            "imod",
            "ipow",
            "iand",
            "ior",
            "ixor",
        )
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # a builtin, or the name of a method
        return False
    return bound.arguments.get("inplace") is True


def _is_view(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        submodule = _target(module, node)
        return isinstance(submodule, nn.Identity | nn.Flatten | nn.Unflatten | DropoutLayer)
    return bool(node.args) and (_name(node) in _VIEWS or _in_place(module, node))


def _part(
    module: nn.Module,
    inside: Sequence[fx.Node],
    entering: Sequence[fx.Node],
    leaving: Sequence[fx.Node] | None,
    cut: fx.Node | None,
) -> Part:
    # `entering` become placeholders; nodes of the part are copied in order, and nodes from earlier parts (parameters, batch
    # sizes) where they are first needed. In-place operations on what comes in or is handed out work on a clone: the caller's tensor
    # may be an input of several parts that run one after the other.
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in entering}
    inside_nodes = set(inside)
    for node in _overwritten(module, inside, entering):
        copies[node] = graph.call_method("clone", (copies[node],))

    def known(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = counted(node) or graph.node_copy(node, known)
        return copies[node]

    def counted(node: fx.Node) -> fx.Node | None:
        if cut is None or cut not in copies or _counted(node) in (None, *inside_nodes):
            return None
        return graph.call_method("size", (copies[cut], 0))

    handed_out: fx.Node | None = None
    overwritten_features = set() if leaving is None else _overwritten(module, inside, leaving[:1])
    for node in inside:
        copies[node] = counted(node) or graph.node_copy(node, known)
        # The feature is the value at this node, not what later operations of the part write into it.
        if node in overwritten_features:
            handed_out = graph.call_method("clone", (copies[node],))
    if leaving is not None:
        feature = handed_out or known(leaving[0])
        graph.output((feature, *(known(node) for node in leaving[1:])))
    root = {
        str(node.target): _target(module, node)
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    return Part(module=fx.GraphModule(root, graph), tensors=frozenset(_tensors(module, graph)))


class _Read(nn.Module):
    """Gives a tensor of a view's module as it is now."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        # In a list: as an attribute it would become a submodule, and its tensors would count twice.
        self._from = [module]
        self.name = name

    def forward(self) -> Tensor:
        return getattr(self._from[0], self.name)


def _target(module: nn.Module, node: fx.Node) -> Any:
    """What a node calls or reads."""
    path, _, name = str(node.target).rpartition(".")
    owner = module.get_submodule(path)
    if node.op == "call_module" and name not in children_of(owner):
        return _Read(owner, name)
    return getattr(owner, name)


def _tensors(module: nn.Module, graph: fx.Graph) -> set[str]:
    names: set[str] = set()
    for node in graph.nodes:
        if node.op == "call_module":
            submodule = _target(module, node)
            if isinstance(submodule, _Read):
                names.add(str(node.target))
                continue
            names |= {
                f"{node.target}.{name}"
                for name, _ in (*submodule.named_parameters(), *submodule.named_buffers())
            }
        elif node.op == "get_attr":
            names.add(str(node.target))
    return names


def flat(module: fx.GraphModule) -> fx.GraphModule:
    """The same part with all of its modules on one level: looking up `a.b.c.d` for every layer takes longer than some layers do."""
    graph, root = fx.Graph(), {}
    output = graph.graph_copy(module.graph, {})
    if output is not None:
        graph.output(output)
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            path = str(node.target)
            name = path.replace(".", "__")
            root[name] = (
                module.get_submodule(path) if node.op == "call_module" else operator.attrgetter(path)(module)
            )
            node.target = name
    return fx.GraphModule(root, graph)


def run(parts: Sequence[Part], *inputs: Tensor) -> Tensor:
    """All parts one after the other: what the network computes."""
    values: Any = inputs
    for segment in parts[:-1]:
        _, *values = segment.module(*values)
    return parts[-1].module(*values)


__all__ = ["Cut", "Part", "flat", "run", "split"]
