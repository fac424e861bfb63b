"""Importance of channels: what a criterion says of weights, brought together per unit of a channel group.

A criterion looks at one *source* at a time, a tensor that makes channels (the weight of a layer, the scale of a batch
norm), and gives one number per position of its axis. Sources that are coupled, because their channels are added or written
by several layers, are then brought together per unit of a channel group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import numpy as np

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.prune.criteria import Criterion, Source, criterion_of
from anywidth.space.axes import Axis, spelled_out
from anywidth.space.channel_space import ChannelSpace

Reduce = Literal["mean", "sum", "max", "first"]
Normalize = Literal["none", "mean", "max"]
Scores = dict[str, np.ndarray]
"""Group name -> (units,) float64, larger is more important."""


def scores(
    net: Elastic,
    criterion: str | Criterion | Callable[[Source], np.ndarray] = "bn_scale",
    *,
    reduce: Reduce = "mean",
    normalize: Normalize | None = None,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
) -> Scores:
    """Importance of every unit of every channel group that the criterion can judge.

    Args:
        net: nothing of it changes.
        criterion:
            "bn_scale": |scale| of batch norms (Liu et al., arXiv 1708.06519);
            "l1", "l2": norm of the weights that make a channel (Li et al., arXiv 1608.08710);
            "taylor": sum of (weight x gradient)^2 over these weights (Molchanov et al., arXiv 1906.10771, eq. 8); call
            `backward` on a loss of `net(x)` before;
            "fpgm": sum of distances to the other filters of the layer (He et al., arXiv 1811.00250);
            "lamp": squared norm over the sum of all squared norms of the layer that are not smaller (Lee et al., arXiv
            2010.07611, for filters);
            "activation": mean |output| of the layers that make a channel, over `batches`;
            "random": uniform numbers from `seed`, a baseline;
            "uniform": the first channels of every group stay, the same share of each: the other baseline;
            "package.module:NAME", or the thing itself: a `Criterion` of yours, or a function of a `Source`.
        reduce: coupled sources: their mean, sum, maximum, or the first alone.
        normalize: "mean", "max": every group's scores are divided by theirs before groups are compared; "none". Default:
            "none" for criteria that are `comparable` (bn_scale, lamp, taylor, random, uniform), else "mean".
        batches: inputs, or tuples whose first entry is the input; for "activation".
        seed: of "random".

    Raises:
        RecipeError: a criterion "package.module:NAME" that cannot be imported.
        WidthError: unknown names, no batch norm to judge by, no gradients, or no batches.
    """
    _check_names(reduce, normalize)
    resolved = criterion_of(criterion)
    if normalize is None:
        normalize = "none" if resolved.comparable else "mean"
    judged = [
        (axis, _checked(axis, values, net.space, criterion)) for axis, values in resolved(net, batches, seed)
    ]
    return _together(net.space, judged, reduce, normalize)


def _checked(axis: Axis, values: Any, space: ChannelSpace, criterion: Any) -> np.ndarray:
    """(positions,) finite numbers of a criterion for one axis.

    Raises:
        WidthError: others.
    """
    numbers = np.asarray(values, np.float64)
    groups = sorted({space.names[r.group] for r in axis if r.group >= 0})
    positions = sum(r.positions for r in axis)
    name = (
        criterion if isinstance(criterion, str) else getattr(criterion, "__name__", type(criterion).__name__)
    )
    if numbers.shape != (positions,):
        raise WidthError(
            f"prune: the criterion {name!r} gives an array {numbers.shape} for {', '.join(groups)}; expected one number for each of "
            f"{positions} channels"
        )
    if not np.isfinite(numbers).all():
        raise WidthError(
            f"prune: the criterion {name!r} gives numbers that are not finite for {', '.join(groups)}; the weights (or gradients) "
            "hold NaN or infinity"
        )
    return numbers


def _check_names(reduce: Any, normalize: Any) -> None:
    for value, names, what in (
        (reduce, get_args(Reduce), "reduce"),
        (normalize, (None, *get_args(Normalize)), "normalize"),
    ):
        if value not in names:
            raise WidthError(f"prune: unknown {what} {value!r}; use one of {', '.join(map(str, names))}")


def _together(
    space: ChannelSpace, judged: Iterable[tuple[Axis, np.ndarray]], reduce: Reduce, normalize: Normalize
) -> Scores:
    """One number per unit: the mean over a source's positions of it, then `reduce` over sources."""
    # A group of 2 units that two sources write, the first of them with 2 positions per unit:
    #     values 1 3 5 7 at units 0 0 1 1 -> 2 6        values 4 8 at units 0 1 -> 4 8        mean of both -> 3 7
    # A source that writes only some units of a group says nothing (NaN) about the others.
    rows: dict[int, list[np.ndarray]] = {}
    for axis, values in judged:
        group, unit = spelled_out(axis)
        for g in np.unique(group[group >= 0]).tolist():
            in_group = group == g
            total = np.bincount(unit[in_group], weights=values[in_group], minlength=space.groups[g].size)
            count = np.bincount(unit[in_group], minlength=space.groups[g].size)
            rows.setdefault(g, []).append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    group_scores = {}
    for g in sorted(rows):
        table = np.stack(rows[g])
        function = {"mean": np.nanmean, "sum": np.nansum, "max": np.nanmax, "first": lambda t, axis: t[0]}[
            reduce
        ]
        value = np.nan_to_num(function(table, axis=0))
        scale = {"none": 1.0, "mean": value.mean(), "max": value.max()}[normalize]
        group_scores[space.groups[g].name] = value / scale if scale > 0 else value
    return group_scores
