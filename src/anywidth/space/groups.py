"""Channel groups, and how the number of their channels is rounded."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from anywidth.space.width import round_units

Policy = int | Mapping[str, int]
"""A number for all groups, or group name or glob pattern -> number (later patterns win, 1 where none matches)."""


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that are kept or dropped together, in order.

    Attributes:
        name: path of the module that makes them.
        size: number of units; the smallest thing that can go is a unit.
        unit: channels of one unit on the axis that names the group (64 where whole heads of 64 go, mostly 1).
        divisor: `uniform` and `sample` round to multiples of this many channels.
        minimum: the fewest channels kept.
        permutable: whether channels may be reordered without changing the function.
        stream: whether outputs of several layers are added in these channels (a residual stream).
        writers, readers: parameter axes that make and that sum over these channels.
    """

    name: str
    size: int
    unit: int
    divisor: int
    minimum: int
    permutable: bool
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    stream: bool = False

    @property
    def channels(self) -> int:
        return self.size * self.unit

    def round(self, share: float) -> int:
        """Units for a share in (0, 1] of the group."""
        quantum = max(1, -(-self.divisor // self.unit))
        minimum = max(1, -(-self.minimum // self.unit))
        return round_units(
            self.size * share, size=self.size, quantum=quantum, minimum=min(minimum, self.size)
        )


def policy_of_group(policy: Policy, name: str) -> int:
    if isinstance(policy, int):
        return policy
    return next((v for p, v in reversed(list(policy.items())) if fnmatch.fnmatchcase(name, p)), 1)
