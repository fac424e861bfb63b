"""From solved label sets to a `ChannelSpace`: groups, the axes that follow them, and why the rest is frozen."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from anywidth.compat.layers import Convolution, TransposedConvolution
from anywidth.errors import WidthError, unknown_name
from anywidth.space.axes import AttributeRule, Axis, NumberRule, Size, Term
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import ChannelGroup, Policy
from anywidth.tracing.coder import Coder
from anywidth.tracing.labels import FIXED, Block, Freeze
from anywidth.tracing.model_outputs import FreeOutputs
from anywidth.tracing.reasons import frozen_axes
from anywidth.tracing.solution import Solution
from anywidth.tracing.solver import solve
from anywidth.tracing.symbolic_sizes import Number
from anywidth.tracing.trace import trace
from anywidth.tracing.trace_state import Walk


def channel_space(
    model: nn.Module,
    example: Any,
    *,
    freeze: Sequence[str] = (),
    free_outputs: FreeOutputs = (),
    divisor: Policy = 1,
    minimum: Policy = 1,
) -> ChannelSpace:
    """Trace `model` on `example` and find its channel groups, without trying them out.

    Raises:
        TraceError: the model does not run on the example.
        WidthError: a freeze pattern or a rounding policy that matches nothing.
    """
    walk = trace(model, example, free_outputs)
    return build(walk, frozen_by_name(walk, model, freeze), divisor=divisor, minimum=minimum)


def frozen_by_name(
    walk: Walk, model: nn.Module, patterns: Sequence[str], reason: str = "frozen by name"
) -> list[Freeze]:
    """Labels of the channels made by all modules or parameters whose name matches a pattern.

    Layers make the channels of their output; what they read is made elsewhere, and stays elastic.

    Raises:
        WidthError: a pattern that matches nothing.
    """
    freezes = []
    # "layer1" has to freeze layer1.0.conv1.weight and everything else below it, so a pattern is tried on each prefix
    # of a tensor's name: layer1, layer1.0, layer1.0.conv1, layer1.0.conv1.weight.
    names = sorted({b.tensor for b in walk.ledger.blocks if b.tensor is not None})
    output_axis = made_axes(model)
    for pattern in patterns:
        hits = [n for n in names if any(fnmatch.fnmatchcase(prefix, pattern) for prefix in _prefixes(n))]
        if not hits:
            raise WidthError(
                unknown_name("module or parameter", pattern, names) + "; freeze takes names or glob patterns."
            )
        matched_blocks = [
            b for b in walk.ledger.blocks if b.tensor in hits and b.axis == output_axis.get(b.tensor, b.axis)
        ]
        if matched_blocks:
            labels = np.concatenate([np.arange(b.start, b.start + b.size) for b in matched_blocks])
            freezes.append(Freeze(labels=labels, reason=reason, where=pattern))
    return freezes


def made_axes(model: nn.Module) -> dict[str, int]:
    """Weights with an input and an output axis -> the output axis."""
    output_axes = {}
    for path, m in model.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(m, TransposedConvolution | nn.Embedding | nn.EmbeddingBag):
            output_axes[f"{prefix}weight"] = 1
        elif isinstance(m, Convolution | nn.Linear | nn.Bilinear):
            output_axes[f"{prefix}weight"] = 0
        elif isinstance(m, nn.MultiheadAttention):
            output_axes |= {
                f"{prefix}{n}": 0
                for n in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            }
    return output_axes


def _prefixes(name: str) -> list[str]:
    components = name.split(".")
    return [".".join(components[: i + 1]) for i in range(len(components))]


def build(
    walk: Walk, frozen: Sequence[Freeze] = (), *, divisor: Policy = 1, minimum: Policy = 1
) -> ChannelSpace:
    """Solve the walk and describe the result."""
    solution = solve(walk, frozen)
    blocks = [b for b in walk.ledger.blocks if b.tensor is not None and b.tensor in walk.used]
    group_of, rank_of, sizes = _groups(solution, blocks)
    coder = Coder(solution, group_of, rank_of)
    axes = _axes(walk, coder)
    groups = _named(walk, coder, blocks, sizes)
    attributes = tuple(
        AttributeRule(a.module, a.name, a.index, size)
        for a, form in solution.attributes.items()
        if (size := coder.size_of_form(form)).runs
    )
    numbers = _numbers(walk, coder)
    terms = tuple(
        Term(c.module, tuple(map(coder.size, c.sizes)), tuple(map(coder.size, c.written)), c.pool)
        for c in walk.contractions
    )
    unknown = tuple(f"{op} in {module or '<root>'}" for op, module in walk.unknown)
    read = _axes_of(walk, axes, walk.read)
    space = ChannelSpace(
        groups=groups,
        axes=axes,
        attributes=attributes,
        numbers=numbers,
        terms=terms,
        unknown=unknown,
        frozen=frozen_axes(walk, solution, coder),
        free_outputs=tuple(sorted(walk.free_outputs)),
        upstream=_upstream(walk, axes),
        readers=read,
        tied=tuple(place for place in _axes_of(walk, axes, walk.written) if place in read),
    )
    return space.rounded(divisor, minimum)


def _numbers(walk: Walk, coder: Coder) -> tuple[NumberRule, ...]:
    """Numbers that follow a size, of all that were seen; one that would have to follow two sizes follows none."""
    name = coder.solution.partition.name
    summed = np.zeros(name.size, bool)
    for labels in walk.summed_by_activations:
        summed[name[labels]] = True
    rules: dict[Number, set[tuple[Size, float]]] = {}
    for d in walk.derived:
        if d.sure or any(summed[name[labels]].all() for labels in d.size.vectors()):
            rules.setdefault(d.number, set()).add((coder.size(d.size), d.power))
    followed = {number: next(iter(sizes)) for number, sizes in rules.items() if len(sizes) == 1}
    return tuple(
        NumberRule(n.module, n.name, size, power) for n, (size, power) in followed.items() if size.runs
    )


def _axes_of(
    walk: Walk, axes: Mapping[str, tuple[Axis | None, ...]], vectors: Iterable[np.ndarray]
) -> tuple[tuple[str, int], ...]:
    """Axes of the model's tensors with any of these labels, in the tensors' order."""
    listed = np.zeros(walk.ledger.count, bool)
    for labels in vectors:
        listed[labels] = True
    return tuple(
        (b.tensor, b.axis)
        for b in walk.ledger.blocks
        if b.tensor is not None
        and b.tensor in axes
        and axes[b.tensor][b.axis] is not None
        and listed[b.start : b.start + b.size].any()
    )


def writing_axes(model: nn.Module, space: ChannelSpace) -> dict[str, tuple[int, ...]]:
    """Name of a parameter or buffer -> its axes that make channels; those that only read them are left out.

    A channel is gone where every entry that makes it is zero, or cut out.
    """
    if space.readers is None:  # a space that was saved before this was recorded: by the layers' classes
        output_axes = made_axes(model)
        return {n: (output_axes.get(n, 0),) for n in space.axes if space.axis(n, output_axes.get(n, 0))}
    only_read = set(space.readers) - set(space.tied)
    return {
        n: tuple(d for d, axis in enumerate(axes) if axis is not None and (n, d) not in only_read)
        for n, axes in space.axes.items()
    }


def _upstream(walk: Walk, axes: Mapping[str, tuple[Axis | None, ...]]) -> dict[str, tuple[int, ...]]:
    """Batch norm -> the groups of all tensors that what it normalises depends on, and its own."""
    of_axis = {id(a): {r.group for r in a if r.group >= 0} for slots in axes.values() for a in slots if a}
    result: dict[str, tuple[int, ...]] = {}
    # A norm depends on most of what the one before it depends on, and a little more: only that is looked up.
    known, groups = 0, set()
    for path, bits in walk.normalised.items():
        if known & ~bits:
            known, groups = 0, set()
        names = walk.tensors_of(bits & ~known)
        groups = groups.union(*(of_axis[id(a)] for n in names for a in axes.get(n, ()) if a))
        known, result[path] = bits, tuple(sorted(groups))
    return result


def _groups(solution: Solution, blocks: Sequence[Block]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Group and rank of every label set: sets with the same part in the same axes form one group, in order."""
    # Two label sets belong to one group if the same axes contain them equally often. Each pair (axis, count) gets a
    # random 64-bit number, and a set sums those of the pairs it is in; equal sums then mean equal membership:
    #     conv1.weight[0] = 1 2 3 (r1), conv2.weight[1] = 1 2 3 (r2)    1, 2, 3: r1 + r2 -> group 0, ranks 0 1 2
    #     fc.weight[0] = 7 8 (r3), head.weight[1] = 7 8 (r4)            7, 8:    r3 + r4 -> group 1, ranks 0 1
    # The order of the random numbers is fixed (seed 0), and so is the order of the groups.
    name = solution.partition.name
    rng = np.random.default_rng(0)
    # All axes at once: entries (axis, set) with their counts, and a number for each pair (axis, count) that occurs.
    block, atom, count = _counted(blocks, name)
    _, pair = np.unique(block * (count.max(initial=0) + 1) + count, return_inverse=True)
    random = rng.integers(0, 2**63, size=pair.max(initial=-1) + 1, dtype=np.uint64)
    signature = np.zeros(name.size, np.uint64)
    np.add.at(signature, atom, random[pair])
    axis_counts = np.bincount(atom, minlength=name.size)
    signature[FIXED] = 0
    signature[axis_counts < 2] = 0  # made but never read, or read but never made: nothing follows
    group_of, rank_of = np.full(name.size, -1), np.zeros(name.size, np.int64)
    sizes: list[int] = []
    # `np.unique` sorts by signature, which is random; the first position restores the order of appearance.
    atoms = np.flatnonzero(signature)
    _, first_positions, inverse = np.unique(signature[atoms], return_index=True, return_inverse=True)
    for g in np.argsort(first_positions):
        members = atoms[inverse == g]
        if members.size < 2:
            continue
        group_of[members], rank_of[members] = len(sizes), np.arange(members.size)
        sizes.append(members.size)
    return group_of, rank_of, sizes


def _counted(blocks: Sequence[Block], values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which values the labels of each axis have, and how often: (number of the axis, value, count), by axis, then by value."""
    # Labels 1 2 3 of one axis and 4 5 of another, values 0 7 7 9 7 8 of the labels 0 to 5:
    #     axis 0 0 1 1, value 7 9 7 8, count 2 1 1 1
    sizes = np.array([b.size for b in blocks], np.int64)
    starts = np.array([b.start for b in blocks], np.int64)
    number = np.repeat(np.arange(sizes.size), sizes)
    labels = np.arange(number.size) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)
    lowest = int(values.min(initial=0))
    span = int(values.max(initial=0)) - lowest + 1
    keys, counts = np.unique(number * span + (values[labels] - lowest), return_counts=True)
    return keys // span, keys % span + lowest, counts


def _axes(walk: Walk, coder: Coder) -> dict[str, tuple[Axis | None, ...]]:
    axes: dict[str, list[Axis | None]] = {}
    for block in walk.ledger.blocks:
        if block.tensor is None:
            continue
        runs = coder.axis(block)
        slots = axes.setdefault(block.tensor, [])
        slots += [None] * (block.axis + 1 - len(slots))
        slots[block.axis] = runs if any(r.group >= 0 for r in runs) else None
    return {n: tuple(a) for n, a in axes.items() if any(x is not None for x in a)}


def _named(
    walk: Walk, coder: Coder, blocks: Sequence[Block], sizes: Sequence[int]
) -> tuple[ChannelGroup, ...]:
    """Groups, named after the first module that makes them."""
    # Modules come in the order in which they ran, so that a group is named after the layer that writes it first.
    # The unit is measured on the axis that names the group: 64 labels of 4 sets on a weight are 16 channels a unit. Without one,
    # as where experts are bare parameters, it is the smallest on any axis.
    writers: list[list[str]] = [[] for _ in sizes]
    readers: list[list[str]] = [[] for _ in sizes]
    unit = [0] * len(sizes)
    smallest = [0] * len(sizes)
    order: dict[str, int] = {}
    for m in walk.contractions:
        order.setdefault(m.module, len(order))
    ordered = sorted(blocks, key=lambda b: order.get((b.tensor or "").rpartition(".")[0], len(order)))
    counted = _counted(ordered, coder.group_of[coder.solution.partition.name])
    for position, g, n in zip(*(column.tolist() for column in counted), strict=True):
        if g < 0:
            continue
        block = ordered[position]
        tensor = block.tensor or ""
        makes = block.axis == 0
        (writers if makes else readers)[g].append(tensor.rpartition(".")[0] or tensor)
        smallest[g] = min(smallest[g] or n, n // sizes[g])
        if (makes and unit[g] == 0 and tensor.endswith("weight")) or (unit[g] == 0 and len(writers[g]) > 1):
            unit[g] = max(1, n // sizes[g])
    fixed_order = _holding(coder, walk.ledger.ordered, len(sizes))
    streams = _holding(coder, walk.ledger.summed, len(sizes))
    groups, taken = [], set()
    for g, size in enumerate(sizes):
        makes, reads = tuple(dict.fromkeys(writers[g])), tuple(dict.fromkeys(readers[g]))
        base = (makes or reads)[0] or "<root>"
        name, k = base, 2
        while name in taken:
            name, k = f"{base}#{k}", k + 1
        taken.add(name)
        groups.append(
            ChannelGroup(
                name=name,
                size=size,
                unit=max(1, unit[g] or smallest[g]),
                divisor=1,
                minimum=1,
                permutable=not bool(fixed_order[g]),
                stream=bool(streams[g]),
                writers=makes,
                readers=reads,
            )
        )
    return tuple(groups)


def _holding(coder: Coder, label_vectors: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Which groups hold any of these labels."""
    holds = np.zeros(count, bool)
    for labels in label_vectors:
        owners = coder.group_of[coder.solution.partition.name[labels]]
        holds[owners[owners >= 0]] = True
    return holds
