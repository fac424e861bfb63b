"""How far a search moves in each channel group."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from anywidth.errors import WidthError, unknown_name
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import ChannelGroup


def quantum(group: ChannelGroup) -> int:
    """The fewest units between two sizes that the group's divisor allows."""
    return max(1, -(-group.divisor // group.unit))


def group_steps(space: ChannelSpace, steps: int | Mapping[str, int]) -> list[int]:
    """Units of one step in every group.

    Args:
        space: of the network.
        steps: into how many steps a group is cut: quantum x max(1, round(size / steps / quantum)), the granularity of
            AutoSlim's published networks (12); or group name or pattern -> channels of a step (one quantum elsewhere).

    Raises:
        WidthError: unknown group, or no positive number.
    """
    # A group of 64 units with divisor 8: 12 steps are 64 / 12 / 8 = 0.67 quanta each, rounded to one: 8 units. 4 steps: 16 units.
    quanta = [quantum(group) for group in space.groups]
    if isinstance(steps, int):
        if steps < 1:
            raise WidthError(f"search: expected at least 1 step for each group, got {steps}")
        return [q * max(1, round(g.size / steps / q)) for g, q in zip(space.groups, quanta, strict=True)]
    for pattern, channels in steps.items():
        hits = [i for i, name in enumerate(space.names) if fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            raise WidthError(unknown_name("channel group", pattern, space.names))
        for i in hits:
            if channels < 1 or channels % space.groups[i].unit:
                raise WidthError(
                    f"search: a step of {channels} channels in group '{space.names[i]}'; expected a multiple of "
                    f"{space.groups[i].unit}"
                )
            quanta[i] = channels // space.groups[i].unit
    return quanta
