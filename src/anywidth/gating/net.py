"""Inference that really computes only the chosen width, for a batch too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from anywidth.gating.gate import Gate
from anywidth.gating.routes import Route, Routes
from anywidth.graph.partition import flat


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Outputs of a batch and the ways that its inputs took.

    Attributes:
        output: (N, ...) in the order of the inputs.
        routes: (N, gates) the width that each gate chose, by number.
    """

    output: Tensor
    routes: Tensor


_CPU_CHUNK = 8


class DynamicNet(nn.Module):
    """A network whose gates choose a width for each input.

    The part before the first gate runs on the whole batch; then the inputs are grouped by their choice, and each group runs through
    compact layers of its width. Outputs are in the order of the inputs. The choice is the largest logit, so it is the same every time.

    Args:
        routes: parts of all widths; compact copies, which hold their own tensors.
        gates: one for each gate of `routes`.
        chunk: most inputs that a part sees at once, a memory and speed setting that changes outputs by rounding only. Default: 8 on a CPU, whose caches
            and allocator suffer from large activations, all on other devices.

    Raises:
        ValueError: chunk < 1, or gates of another number or of another number of choices.
    """

    def __init__(self, routes: Routes, gates: Sequence[nn.Module], *, chunk: int | None = None) -> None:
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(f"dynamic network: chunk = {chunk}; expected 1 or more inputs")
        gate_choices = [int(gate.weight.shape[0]) for gate in gates if isinstance(gate, Gate)]
        if len(gates) != len(routes.gates) or any(count != routes.choices for count in gate_choices):
            raise ValueError(
                f"dynamic network: the routes have {len(routes.gates)} gates with {routes.choices} choices; got {len(gates)} gates"
                + (f" with {gate_choices} choices" if gate_choices else "")
            )
        self.chunk = chunk
        self.gates = nn.ModuleList(gates)
        self.count, self.choices = len(routes.gates), routes.choices
        self.parts = nn.ModuleDict()
        self.names: dict[tuple[int, Route], str] = {}
        name_by_id: dict[int, str] = {}
        # Two gates, two widths: segments (0, ()), (1, (0,)), (1, (1,)), (2, (0, 0)), ..., (2, (1, 1)). Routes that share
        # a module register it once, so that its weights are stored once.
        for segment_index in range(self.count + 1):
            for route in _prefixes(routes.choices, segment_index):
                module = routes.part(segment_index, route)
                name = name_by_id.setdefault(id(module), f"part{segment_index}_" + "_".join(map(str, route)))
                self.parts[name] = flat(module) if isinstance(module, fx.GraphModule) else module
                self.names[segment_index, route] = name
        self.eval()

    def part(self, number: int, route: Route) -> nn.Module:
        """Part `number` after the choices `route` of the gates before it."""
        return self.parts[self.names[number, route]]

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ...) -> the network's output (N, ...)."""
        return self.routed(x).output

    def routed(self, x: Tensor) -> Routed:
        """As `forward`, with the routes.

        Raises:
            ValueError: an empty batch.
        """
        if len(x) == 0:
            raise ValueError("dynamic network: the batch is empty")
        # Groups finish in the order of their routes. With choices (1, 0, 1), outputs come for inputs 1, 0, 2 in
        # this order, and `restored[order] = joined` undoes it.
        routes = torch.zeros(len(x), self.count, dtype=torch.long, device=x.device)
        outputs: list[Tensor] = []
        order: list[Tensor] = []
        self._run((), (x,), torch.arange(len(x), device=x.device), routes, outputs, order)
        if len(outputs) == 1:
            return Routed(output=outputs[0], routes=routes)
        joined = torch.cat(outputs)
        restored = torch.empty_like(joined)
        restored[torch.cat(order)] = joined
        return Routed(output=restored, routes=routes)

    def _run(
        self,
        route: Route,
        values: Sequence[Any],
        index: Tensor,
        routes: Tensor,
        outputs: list[Tensor],
        order: list[Tensor],
    ) -> None:
        """Run inputs `index`, which all took `route` so far, to their outputs."""
        output = self._in_chunks(self.part(len(route), route), values, len(index))
        if len(route) == self.count:
            outputs.append(output)
            order.append(index)
            return
        feature, *values = output
        gate_choice = self.gates[len(route)](feature).argmax(1)
        routes[index, len(route)] = gate_choice
        taken = gate_choice.unique().tolist()
        # gate_choice (1, 0, 1): row 1 goes through choice 0, rows 0 and 2 through choice 1. Nothing is copied where
        # all inputs agree.
        for choice in taken:
            if len(taken) == 1:
                self._run((*route, choice), values, index, routes, outputs, order)
                continue
            rows = (gate_choice == choice).nonzero().flatten()
            chosen_values = [v.index_select(0, rows) if isinstance(v, Tensor) else v for v in values]
            self._run((*route, choice), chosen_values, index[rows], routes, outputs, order)

    def _in_chunks(self, module: nn.Module, values: Sequence[Any], count: int) -> Any:
        """The module's output for `count` inputs, computed a chunk at a time."""
        example = next(v for v in values if isinstance(v, Tensor))
        chunk = self.chunk or (_CPU_CHUNK if example.device.type == "cpu" else count)
        if count <= chunk:
            return module(*values)
        chunk_outputs = [
            module(*(v[i : i + chunk] if isinstance(v, Tensor) else v for v in values))
            for i in range(0, count, chunk)
        ]
        # Last segment: tensors (chunk, ...). Others: lists of values, of which those that are not tensors are the
        # same in every chunk.
        if isinstance(chunk_outputs[0], Tensor):
            return torch.cat(chunk_outputs)
        return [
            torch.cat(each) if isinstance(each[0], Tensor) else each[0]
            for each in zip(*chunk_outputs, strict=True)
        ]

    def compile(self, *arguments: Any, **options: Any) -> DynamicNet:
        """Compile the parts, each by itself; the grouping between them stays in Python. Arguments are those of `torch.compile`."""
        for module in self.parts.values():
            module.compile(*arguments, **options)
        return self


def _prefixes(choices: int, length: int) -> list[Route]:
    routes: list[Route] = [()]
    for _ in range(length):
        routes = [(*route, k) for route in routes for k in range(choices)]
    return routes
