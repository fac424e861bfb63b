"""The widths that gates choose between, and the parts of the network that each choice runs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anywidth.cost.cost_model import Convention
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.graph.partition import Cut, Part, split
from anywidth.space.width import Width

_log = logging.getLogger(__name__)
Route = tuple[int, ...]
"""What each gate chose, by number; shorter where later gates have not chosen yet."""


@dataclass(frozen=True, kw_only=True)
class _CachedSegment:
    """A part at the widths of some route."""

    route: Route
    segment: Part


class Routes:
    """All ways through a network whose gates choose a width for what follows them.

    The groups that are first made after a gate follow its choice; those made before the first gate must be the same for
    all widths, so that all inputs share that part.

    Args:
        net: with statistics for the widths; parts are made in evaluation mode.
        gates: where each gate is, in the order in which the network runs.
        widths: the widths to choose from, the narrowest first: labels, ratios or `Width`s. A gate's choice k takes from width k the
            groups that follow it.

    Raises:
        WidthError: fewer than two widths, widths that differ before the first gate, a gate without groups, or widths that are not in
            order.
        TraceError: a gate at a module that does not exist, or a network that cannot be cut.

    Source: Li et al., arXiv 2103.13258, section 3.3.
    """

    def __init__(self, net: Elastic, gates: Sequence[Cut], widths: Sequence[Hashable]) -> None:
        if len(widths) < 2 or not gates:
            raise WidthError(
                f"gates choose between at least two widths at one place or more; got {len(widths)} widths and {len(gates)} gates"
            )
        self.net, self.gates, self.labels = net, tuple(gates), tuple(widths)
        self.widths = [net.width(w) for w in widths]
        costs = [net.macs(w) for w in self.widths]
        if any(b <= a for a, b in itertools.pairwise(costs)):
            raise WidthError(
                f"widths of gates: expected the narrowest first, each costing more than the one before; got {[int(c) for c in costs]}"
            )
        segments = split(net.extract(self.widths[-1]).eval(), self.gates)
        self._touched = [self._groups_of(segment.tensors) for segment in segments]
        self._segment_of_group = self._creating_segments(segments)
        self._check()
        self._compare_trunks(segments[0])
        measured = net.norms.policy != "frozen"
        self._measured = [
            measured and any(n.endswith("running_mean") for n in segment.tensors) for segment in segments
        ]
        self._segments: dict[tuple[int, tuple[int, ...], tuple[int, ...]], _CachedSegment] = {}
        self._weights: dict[tuple[int, tuple[int, ...]], nn.Module] = {}

    def _groups_of(self, tensors: frozenset[str]) -> list[int]:
        """Groups whose widths the shapes of a part depend on."""
        # A weight (out, in, k, k) depends on two groups, the one that it makes and the one that it reads.
        axes = (axis for name in tensors for axis in self.net.space.axes.get(name, ()) if axis is not None)
        return sorted({run.group for axis in axes for run in axis if run.group >= 0})

    def _creating_segments(self, segments: Sequence[Part]) -> list[int]:
        """Which part makes a group first, by group."""
        # Writers of a group in segments 1 and 2 (a residual stream across a gate): segment 1 makes it first, and
        # gate 1 decides on its channels.
        modules = [{name.rpartition(".")[0] for name in segment.tensors} for segment in segments]
        segment_indices = []
        for group in self.net.space.groups:
            makers = [i for i, inside in enumerate(modules) if inside & set(group.writers)]
            segment_indices.append(min(makers, default=0))
        return segment_indices

    def _check(self) -> None:
        narrowest = self.widths[0]
        for g, segment_index in enumerate(self._segment_of_group):
            kept = {w.kept[g] for w in self.widths}
            if segment_index == 0 and len(kept) > 1:
                gate_path = self.gates[0].at
                raise WidthError(
                    f"group '{narrowest.names[g]}' comes before the gate at '{gate_path}', so all inputs share it, but the widths keep "
                    f"{sorted(kept)} of it; choose widths that differ after the gate only"
                )
        for gate_position, gate in enumerate(self.gates, 1):
            gated_groups = [
                g for g, segment_index in enumerate(self._segment_of_group) if segment_index == gate_position
            ]
            if not any(len({w.kept[g] for w in self.widths}) > 1 for g in gated_groups):
                raise WidthError(
                    f"the gate at '{gate.at}' chooses nothing: between it and the next all widths keep the same"
                )

    def _compare_trunks(self, trunk_segment: Part) -> None:
        """All inputs run through one trunk, that of the first width; others may have measured other statistics in it."""
        names = [n for n in trunk_segment.tensors if n.endswith(("running_mean", "running_var"))]
        trunks = [dict(self.net.at(w).named_buffers()) for w in self.widths]
        for label, trunk in zip(self.labels[1:], trunks[1:], strict=True):
            for name in sorted(names):
                if not torch.allclose(trunk[name], trunks[0][name], rtol=1e-3, atol=1e-5):
                    _log.warning(
                        "the gate at '%s': '%s' differs between the widths %s and %s, so a gated network is not exactly the static one of "
                        "its route; calibrate all widths on the same batches",
                        self.gates[0].at, name, self.labels[0], label,
                    )  # fmt: skip
                    return

    @property
    def choices(self) -> int:
        return len(self.widths)

    def all(self) -> list[Route]:
        """Every route, the narrowest first choice first."""
        return list(itertools.product(range(self.choices), repeat=len(self.gates)))

    def width(self, route: Route) -> Width:
        """The static network that a route is; gates that have not chosen yet choose the narrowest.

        Raises:
            WidthError: no such route.
        """
        if len(route) > len(self.gates) or not all(0 <= k < self.choices for k in route):
            raise WidthError(
                f"route {route}: expected {len(self.gates)} numbers from 0 to {self.choices - 1}"
            )
        # Segment of each group (0, 1, 2), route (2, 0): widths 0, 2 and 0 give the channels of these groups.
        full = (*route, *([0] * (len(self.gates) - len(route))))
        group_widths = [
            self.widths[0 if segment_index == 0 else full[segment_index - 1]]
            for segment_index in self._segment_of_group
        ]
        return Width(names=self.net.space.names, kept=tuple(w.kept[g] for g, w in enumerate(group_widths)))

    def macs(self, route: Route, convention: Convention = "anywidth") -> int:
        """Multiply-adds of the static network of a route, without gates."""
        return int(self.net.macs(self.width(route), convention=convention))

    def part(self, number: int, route: Route) -> nn.Module:
        """Part `number` of the network on a route; parts that are the same on several routes are made once.

        Args:
            number: 0 to len(gates).
            route: what the gates before that part chose, and maybe more.
        """
        width = self.width(route[:number])
        shape = (number, tuple(width.kept[g] for g in self._touched[number]))
        upstream_groups = [
            g for g, segment_index in enumerate(self._segment_of_group) if segment_index < number
        ]
        # Batch norms have the statistics of what comes before them, whatever this part's own channels are.
        key = (*shape, tuple(width.kept[g] for g in upstream_groups) if self._measured[number] else ())
        if key not in self._segments:
            segments = split(self.net.extract(width).eval().requires_grad_(False), self.gates)
            module = segments[number].module
            _share_parameters_(module, self._weights.setdefault(shape, module))
            self._segments[key] = _CachedSegment(route=route[:number], segment=segments[number])
        return self._segments[key].segment.module

    @torch.no_grad()
    def features(self, x: Tensor) -> list[int]:
        """Channels of the feature that each gate sees, at the widest route; x: an input of the network."""
        sizes = []
        values: Sequence[Tensor] = (x,)
        widest = (self.choices - 1,) * len(self.gates)
        for segment_index in range(len(self.gates)):
            feature, *values = self.part(segment_index, widest)(*values)
            sizes.append(pooled(feature).shape[1])
        return sizes


def _share_parameters_(module: nn.Module, reference: nn.Module) -> None:
    """Parts of the same channels hold their weights once; switchable norms differ and are kept."""
    if module is reference:
        return
    # An affine pair of a switchable norm differs between widths with the same channels in this segment.
    reference_parameters = dict(reference.named_parameters())
    for name, p in list(module.named_parameters()):
        if torch.equal(p, reference_parameters[name]):
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, reference_parameters[name])


def pooled(feature: Tensor) -> Tensor:
    """(N, C, ...) -> (N, C): the mean over space."""
    return feature.flatten(2).mean(2) if feature.ndim > 2 else feature
