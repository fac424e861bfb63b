"""Bring channels into another order without changing the function: then a prefix of each group is any choice of channels."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping, Sequence

import torch

from anywidth.elastic import Elastic
from anywidth.errors import WidthError, unknown_name
from anywidth.space.axes import Axis, spelled_out
from anywidth.tracing.training_mode import forget_computed_

_log = logging.getLogger(__name__)


def reorder_(net: Elastic, order: Mapping[str, Sequence[int]]) -> None:
    """Permute the units of channel groups in place; the wide network computes the same as before.

    Statistics of narrow widths no longer belong to their channels and are dropped: calibrate again.

    Args:
        order: group name -> all its units, the first to come first (for example by falling importance).

    Raises:
        WidthError: unknown group, no permutation, or a group whose order the model depends on; nothing is changed then.
    """
    groups = {g.name: (i, g) for i, g in enumerate(net.space.groups)}
    permutations: dict[int, torch.Tensor] = {}
    if not isinstance(order, Mapping):
        raise WidthError(f"reorder_: expected a mapping from group names to units; got {order!r:.60}.")
    for name, units in order.items():
        if name not in groups:
            raise WidthError(unknown_name("channel group", name, groups))
        index, group = groups[name]
        try:
            wanted = [operator.index(u) for u in units]
        except TypeError:
            wanted = None
        if wanted is None or sorted(wanted) != list(range(group.size)):
            got = f"{units!r:.60}" if wanted is None else f"{len(wanted)} numbers"
            raise WidthError(
                f"the order of group '{name}' must list each of its {group.size} units once; got {got}."
            )
        if not group.permutable:
            raise WidthError(
                f"group '{name}' cannot be reordered: the model routes these channels by position (a shuffle, a convolution along channels or a filling up with zeros)."
            )
        permutations[index] = torch.as_tensor(wanted)
    if net.norms.policy == "switchable" and len(net.norms.statistics) and permutations:
        raise WidthError(
            "channels cannot be reordered with switchable norms: narrow widths own norms for the present order. Use norm='shared'."
        )
    parameters = dict(net.model.named_parameters())
    unused = sorted(net.space.unused & parameters.keys())
    if unused and permutations:
        _log.warning(
            "reorder_: the example inputs did not use %s%s; what these read keeps its order, so inputs that use them get other results "
            "than before. Make the network elastic with an example that uses all of it.",
            ", ".join(unused[:3]),
            f" and {len(unused) - 3} more parameters" if len(unused) > 3 else "",
        )
    tensors = dict(net.model.named_parameters()) | dict(net.model.named_buffers())
    with torch.no_grad():
        for name, axes in net.space.axes.items():
            t = tensors[name]
            for dim, axis in enumerate(axes):
                source = _sources(axis, permutations) if axis is not None else None
                if source is not None:
                    t.copy_(t.index_select(dim, source.to(t.device)))
    forget_computed_(net.model)
    for width in list(net.norms.statistics):
        net.norms.forget_(width)
    net.drop_views_()


def _sources(axis: Axis, order: Mapping[int, torch.Tensor]) -> torch.Tensor | None:
    """For every position along an axis, the position its content comes from; None if nothing moves.

    A unit may have several positions on an axis: its k-th position receives the k-th position of the unit that takes its place.
    """
    if not any(r.group in order for r in axis):
        return None
    # 3 units with 2 positions each, order 2 0 1: source 4 5 0 1 2 3.
    # 3 units that stand twice on the axis (a concatenation with itself), order 2 0 1: source 2 0 1 5 3 4.
    group, unit = map(torch.from_numpy, spelled_out(axis))
    source = torch.arange(group.numel())
    for g, permutation in order.items():
        positions = torch.nonzero(group == g).ravel()
        if positions.numel() == 0:
            continue
        by_unit = positions[torch.argsort(unit[positions], stable=True)]
        # (units, positions per unit): every unit of a group has equally many positions on an axis.
        slots = by_unit.reshape(permutation.numel(), -1)
        source[slots.ravel()] = slots[permutation].ravel()
    return source
