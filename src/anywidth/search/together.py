"""Several processes that search as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Together:
    """This process and the others; by default a process alone.

    Attributes:
        rank, world: number of this process, and of all.
        gathered: a value -> the values of all processes, in their order.
        from_first: the value that a function has in the first process; only that one runs it.
    """

    rank: int = 0
    world: int = 1
    gathered: Callable[[Any], list[Any]] = lambda value: [value]
    from_first: Callable[[Callable[[], Any]], Any] = lambda function: function()


ALONE = Together()
