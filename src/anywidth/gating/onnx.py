"""A gated network as files that run without this package: one ONNX model with `If`, or its parts as torch programs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.errors import AnywidthError
from anywidth.files import replacing, write_json
from anywidth.gating.net import DynamicNet
from anywidth.gating.routes import Route


class _GatedSegment(nn.Module):
    """A part with its gate: (choice (N,), *what the next part needs)."""

    def __init__(self, segment: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.part, self.gate = segment, gate  # `part` is in the names of exported weights

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        feature, *features = self.part(*values)
        return (self.gate(feature).argmax(1), *features)


def modules(net: DynamicNet) -> dict[Route, nn.Module]:
    """What runs after the choices of each route, shorter ones included; all but the last return (choice, *values)."""
    module_by_route: dict[Route, nn.Module] = {}
    for (segment_index, route), _ in net.names.items():
        segment = net.part(segment_index, route)
        module_by_route[route] = (
            segment if segment_index == net.count else _GatedSegment(segment, net.gates[segment_index])
        )
    return module_by_route


@torch.no_grad()
def _examples(net: DynamicNet, x: Tensor) -> dict[Route, tuple[Tensor, ...]]:
    """Inputs of every module."""
    inputs_by_route: dict[Route, tuple[Tensor, ...]] = {(): (x,)}
    for route, module in sorted(modules(net).items(), key=lambda item: len(item[0])):
        if len(route) < net.count:
            _, *values = module(*inputs_by_route[route])
            inputs_by_route |= {
                next_route: tuple(values)
                for next_route in modules(net)
                if next_route[:-1] == route and next_route
            }
    return inputs_by_route


def export_parts(net: DynamicNet, x: Tensor, folder: Path) -> None:
    """Write FOLDER/trunk.pt2 and FOLDER/branch-ROUTE.pt2, torch programs for any batch size, and gates.json, which says how
    they follow each other: all but the last return (choice, *values), and branch-ROUTE-CHOICE takes the values of those inputs.

    Args:
        net: the network.
        x: (N, ...) an example.
        folder: made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # torch.export specialises dimensions of size 1, so the example has two inputs.
    two = x[:1].expand(2, *x.shape[1:]).contiguous()
    names = {}
    for route, values in _examples(net, two).items():
        batch = torch.export.Dim("batch")
        free = tuple({0: batch} for _ in values)
        module = modules(net)[route]
        several = isinstance(module, _GatedSegment)  # it takes *values
        program = torch.export.export(module, values, dynamic_shapes=(free,) if several else free)
        names["-".join(map(str, route))] = name = "-".join(["branch", *map(str, route)]) if route else "trunk"
        with replacing(folder / f"{name}.pt2") as temporary:
            torch.export.save(program, temporary)
    write_json(folder / "gates.json", {"parts": names, "gates": net.count, "torch": torch.__version__})


def export_onnx(net: DynamicNet, x: Tensor, path: Path) -> None:
    """Write one ONNX model for a batch of one: the trunk, the gates, and an `If` for each choice; only what was chosen runs.

    Its outputs are "output" and "route" (gates,).

    Args:
        net: the network.
        x: (1, ...) an example.
        path: file to write.

    Raises:
        AnywidthError: the packages of the extra `export` are missing.
        ValueError: another batch size.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise AnywidthError(f"ONNX export needs {' and '.join(missing)}: pip install 'anywidth[export]'")
    if len(x) != 1:
        raise ValueError(
            f"a gated ONNX model routes one input at a time: expected a batch of 1, got {len(x)}"
        )
    import onnx
    from onnx import helper

    examples = _examples(net, x)
    builder = _Builder(net, examples)
    nodes, initializers, outputs = builder.graph((), ["input"])
    trunk_model = builder.models[()]
    renamed = [
        helper.make_node("Identity", [outputs[0]], ["output"]),
        helper.make_node("Identity", [outputs[1]], ["route"]),
    ]
    graph = helper.make_graph(
        [*nodes, *renamed],
        "gated",
        [helper.make_tensor_value_info("input", _type(x), list(x.shape))],
        [
            helper.make_tensor_value_info("output", builder.type, builder.shape),
            helper.make_tensor_value_info("route", onnx.TensorProto.INT64, [net.count]),
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=list(trunk_model.opset_import))
    model.ir_version = trunk_model.ir_version
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save(model, str(temporary))


def _type(x: Tensor) -> int:
    """ONNX's number of a tensor's type."""
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(torch.zeros((), dtype=x.dtype).numpy().dtype)


class _Builder:
    """Puts the exported parts together, the later ones inside the `If`s of the gates before them."""

    def __init__(self, net: DynamicNet, examples: dict[Route, tuple[Tensor, ...]]) -> None:
        self.net, self.examples = net, examples
        self.models: dict[Route, Any] = {}
        full_route = next(route for route in examples if len(route) == net.count)
        with torch.no_grad():
            output = modules(net)[full_route](*examples[full_route])
        self.shape, self.type = list(output.shape), _type(output)

    def _exported(self, route: Route) -> Any:
        from onnx import compose

        program = torch.onnx.export(
            modules(self.net)[route].eval(), self.examples[route], dynamo=True, verbose=False
        )
        assert program is not None
        model = compose.add_prefix(program.model_proto, "r" + "_".join(map(str, route)) + "/")
        self.models[route] = model
        return model

    def graph(self, route: Route, input_names: Sequence[str]) -> tuple[list[Any], list[Any], tuple[str, str]]:
        """Nodes and initializers after the choices `route`, with the names of the output and of the routes from here on."""
        from onnx import helper, numpy_helper

        model = self._exported(route)
        name = "r" + "_".join(map(str, route)) + "/"
        # The exported model names its inputs; `Identity` nodes connect them with the values of the outer graph,
        # which a branch of an `If` sees by name.
        bound = [
            helper.make_node("Identity", [outer], [graph_input.name])
            for outer, graph_input in zip(input_names, model.graph.input, strict=True)
        ]
        nodes, initializers = [*bound, *model.graph.node], list(model.graph.initializer)
        results = [output.name for output in model.graph.output]
        if len(route) == self.net.count:
            empty_route = numpy_helper.from_array(torch.zeros(0, dtype=torch.long).numpy(), f"{name}none")
            return nodes, [*initializers, empty_route], (results[0], empty_route.name)
        choice, *features = results
        branches = self._branch(route, choice, features, 0)
        nodes += branches[0]
        initializers += branches[1]
        nodes.append(helper.make_node("Concat", [choice, branches[2][1]], [f"{name}route"], axis=0))
        return nodes, initializers, (branches[2][0], f"{name}route")

    def _branch(
        self, route: Route, choice: str, input_names: Sequence[str], candidate: int
    ) -> tuple[list[Any], list[Any], tuple[str, str]]:
        """`If` the choice is `candidate`, that branch, else the same for the next ones."""
        import numpy as np
        from onnx import TensorProto, helper, numpy_helper

        # Three widths: If(c == 0, A, If(c == 1, B, C)); the last branch needs no test.
        choices = self.net.choices
        if candidate == choices - 1:
            return self.graph((*route, candidate), input_names)
        name = "r" + "_".join(map(str, route)) + f"/choice{candidate}/"
        candidate_tensor = numpy_helper.from_array(np.array(candidate, np.int64), f"{name}number")
        zero = numpy_helper.from_array(np.array(0, np.int64), f"{name}zero")
        branches = []
        for subgraph in (
            self.graph((*route, candidate), input_names),
            self._branch(route, choice, input_names, candidate + 1),
        ):
            outputs = [
                helper.make_tensor_value_info(subgraph[2][0], self.type, self.shape),
                helper.make_tensor_value_info(
                    subgraph[2][1], TensorProto.INT64, [self.net.count - len(route) - 1]
                ),
            ]
            branches.append(helper.make_graph(subgraph[0], f"{name}branch", [], outputs, subgraph[1]))
        nodes = [
            helper.make_node("Gather", [choice, zero.name], [f"{name}scalar"], axis=0),
            helper.make_node("Equal", [f"{name}scalar", candidate_tensor.name], [f"{name}here"]),
            helper.make_node(
                "If",
                [f"{name}here"],
                [f"{name}output", f"{name}rest"],
                then_branch=branches[0],
                else_branch=branches[1],
            ),
        ]
        return nodes, [candidate_tensor, zero], (f"{name}output", f"{name}rest")
