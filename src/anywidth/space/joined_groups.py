"""Several channel groups of one size as one group: one number of channels for a whole stage."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from anywidth.errors import WidthError, unknown_name
from anywidth.space.axes import Axis, Size
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import ChannelGroup


def joined(space: ChannelSpace, names: Mapping[str, str]) -> ChannelSpace:
    """The space with fewer groups, of which a width has fewer numbers; unit i of such a group is unit i of each member.

    Args:
        space: as traced.
        names: name of the new group -> glob pattern of the groups that become one; the first pattern that fits counts,
            and groups that none fits stay.

    Raises:
        WidthError: a pattern without groups, groups of different sizes, or a name that another group has.
    """
    members: dict[str, list[ChannelGroup]] = {}
    for group in space.groups:
        fits = (new for new, pattern in names.items() if fnmatch.fnmatchcase(group.name, pattern))
        members.setdefault(next(fits, group.name), []).append(group)
    for new, pattern in names.items():
        if new in space.names and not fnmatch.fnmatchcase(new, pattern):
            raise WidthError(f"'{new}' is the name of a group that '{pattern}' does not join; give another")
        if new not in members:
            raise WidthError(unknown_name("channel groups", pattern, space.names) + "; nothing to join")
    # Groups a, b, c and {"stage": "[ab]"} -> members {"stage": [a, b], "c": [c]}, new_index [0, 0, 1]: wherever the space
    # speaks of group 1 (b), it speaks of group 0 (stage) afterwards.
    order = list(members)
    group_of = {
        group.name: order.index(new) for new, merged_groups in members.items() for group in merged_groups
    }
    new_index = [group_of[name] for name in space.names]
    return replace(
        space,
        groups=tuple(_one(new, merged_groups) for new, merged_groups in members.items()),
        axes={
            n: tuple(None if a is None else _axis(a, new_index) for a in axes)
            for n, axes in space.axes.items()
        },
        attributes=tuple(replace(rule, size=_size(rule.size, new_index)) for rule in space.attributes),
        terms=tuple(
            replace(
                term,
                sizes=tuple(_size(s, new_index) for s in term.sizes),
                written=tuple(_size(s, new_index) for s in term.written),
            )
            for term in space.terms
        ),
        upstream={
            path: tuple(sorted({new_index[g] for g in groups})) for path, groups in space.upstream.items()
        },
    )


def _one(name: str, groups: Sequence[ChannelGroup]) -> ChannelGroup:
    reference = groups[0]
    mismatch = next((g for g in groups if (g.size, g.unit) != (reference.size, reference.unit)), None)
    if mismatch is not None:
        raise WidthError(
            f"'{name}' cannot join '{reference.name}' ({reference.size} units of {reference.unit} channels) and '{mismatch.name}' ({mismatch.size} "
            f"of {mismatch.unit}); join groups of the same size"
        )
    return replace(
        reference,
        name=name,
        divisor=math.lcm(*(g.divisor for g in groups)),
        minimum=max(g.minimum for g in groups),
        permutable=all(g.permutable for g in groups),
        stream=any(g.stream for g in groups),
        writers=tuple(dict.fromkeys(w for g in groups for w in g.writers)),
        readers=tuple(dict.fromkeys(r for g in groups for r in g.readers)),
    )


def _axis(runs: Axis, new_index: Sequence[int]) -> Axis:
    return tuple(run if run.group < 0 else replace(run, group=new_index[run.group]) for run in runs)


def _size(size: Size, new_index: Sequence[int]) -> Size:
    return replace(size, runs=_axis(size.runs, new_index))
