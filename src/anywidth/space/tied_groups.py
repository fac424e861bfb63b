"""One width for the whole network: every channel axis keeps its leading positions."""

from __future__ import annotations

from dataclasses import replace

from anywidth.errors import WidthError
from anywidth.space.axes import Axis, Run, Size
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import ChannelGroup


def tied(space: ChannelSpace, units: int, name: str = "width") -> ChannelSpace:
    """The space with all its groups as one of `units` units, each an equal share of every channel axis.

    Traced groups follow each channel through the network. A network whose narrow form routes channels by position
    (chunks of a concatenated tensor that cut across its parts, as in ShuffleNet v1) can be narrowed in another way too:
    the leading positions of every axis, wherever their content comes from. The network then computes a different
    function of its channels, so they cannot be reordered.

    Args:
        space: of a network all of whose elastic axes are elastic in full.
        units: a divisor of every elastic axis.
        name: of the only group.

    Raises:
        WidthError: an axis that cannot be cut so.
    """

    # units = 4: the axis Run(a, 0, 8, 1), Run(b, 0, 8, 1) of 16 positions becomes Run(width, 0, 4, 4), four equal shares.
    def axis(path: str, runs: Axis) -> Axis:
        positions = sum(run.positions for run in runs)
        if any(run.group < 0 for run in runs) or positions % units:
            raise WidthError(
                f"{path} has {positions} channels, which are not {units} equal shares; tie with another number of units"
            )
        return (Run(0, 0, units, positions // units),)

    def size(path: str, traced_size: Size) -> Size:
        return replace(traced_size, runs=axis(path, traced_size.runs)) if traced_size.runs else traced_size

    writers = tuple(dict.fromkeys(writer for group in space.groups for writer in group.writers))
    readers = tuple(dict.fromkeys(reader for group in space.groups for reader in group.readers))
    group = ChannelGroup(
        name=name,
        size=units,
        unit=1,
        divisor=1,
        minimum=1,
        permutable=False,
        writers=writers,
        readers=readers,
    )
    return replace(
        space,
        groups=(group,),
        axes={
            tensor: tuple(None if a is None else axis(tensor, a) for a in axes)
            for tensor, axes in space.axes.items()
        },
        attributes=tuple(
            replace(rule, size=size(f"{rule.module}.{rule.name}", rule.size)) for rule in space.attributes
        ),
        terms=tuple(
            replace(
                term,
                sizes=tuple(size(term.module, s) for s in term.sizes),
                written=tuple(size(term.module, s) for s in term.written),
            )
            for term in space.terms
        ),
    )
