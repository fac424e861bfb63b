"""What a width policy is: a function that draws the widths of one step."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from anywidth.errors import WidthError
from anywidth.space.channel_space import ChannelSpace

Widths = Sequence[Hashable]
"""Widths of one step, the widest first: ratios, labels or `Width`s, whatever `Elastic.at` takes."""


class Draw(Protocol):
    """Generator of this step, part of the training that is done in [0, 1) -> widths, the widest first."""

    def __call__(self, generator: torch.Generator, progress: float = 0.0) -> Widths: ...


@dataclass(frozen=True, kw_only=True)
class WidthPolicy:
    """A function that makes the `Draw` of a training, with what is known of it before there is a network.

    Attributes:
        make: takes those of listed, named, low, high, random, grid, per_group and space that it names, and options of its own.
        draws_unlisted: whether it trains widths that are not listed: such widths have no batch norms of their own.
        draws_random: whether it draws from a range: without a grid every step may train a new width.
        searches: whether a search proposes its widths meanwhile (the section `joslim` of a recipe).
    """

    make: Callable[..., Draw]
    draws_unlisted: bool = True
    draws_random: bool = False
    searches: bool = False

    def __post_init__(self) -> None:
        # As functools.wraps would, so that help() and inspect.signature() show the function.
        for attribute in ("__name__", "__doc__", "__module__"):
            object.__setattr__(self, attribute, getattr(self.make, attribute, None))
        object.__setattr__(self, "__wrapped__", self.make)

    def __call__(self, *args: Any, **kwargs: Any) -> Draw:
        return self.make(*args, **kwargs)


def width_policy(**properties: bool) -> Callable[[Callable[..., Draw]], WidthPolicy]:
    """Declare properties of a policy, as a decorator: those of `WidthPolicy`."""
    return lambda make: WidthPolicy(make=make, **properties)


def as_policy(make: Callable[..., Draw]) -> WidthPolicy:
    """A user's plain function as a policy that may train any width; a `WidthPolicy` as it is."""
    return make if isinstance(make, WidthPolicy) else WidthPolicy(make=make)


@runtime_checkable
class Adaptive(Draw, Protocol):
    """A policy that changes with the training: it is told about every step, and its state is part of a checkpoint."""

    def identity(self) -> dict[str, Any]:
        """Plain data: what must be the same for a state to be of this policy."""
        ...

    def advance_(self, step: int) -> dict[str, Any] | None:
        """Before the widths of a step are drawn; gives what the log should say, or None."""
        ...

    def finish_(self) -> None:
        """After the last step."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        ...

    def load_(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


def check_range(low: float, high: float, random: int, grid: float | None = None) -> None:
    """Refuse a range of ratios that cannot be.

    Raises:
        WidthError: unless 0 < low < high <= 1, random >= 0 and 0 < grid <= high - low.
    """
    if not 0 < low < high <= 1 or random < 0:
        raise WidthError(
            f"random widths: expected 0 < low < high <= 1 and random >= 0, got low={low}, high={high}, "
            f"random={random}"
        )
    if grid is not None and not 0 < grid <= high - low:
        raise WidthError(f"random widths: expected 0 < grid <= {high - low:g} (high - low), got grid={grid}")


def random_widths(
    generator: torch.Generator,
    count: int,
    *,
    low: float,
    high: float,
    grid: float | None = None,
    space: ChannelSpace | None = None,
) -> Widths:
    """Random widths, drawn independently.

    Args:
        generator: decides.
        count: how many.
        low, high: ratios are uniform in [low, high), or on the grid low, low + grid, .., high.
        grid: step between ratios, so that kernels and compiled graphs are met again.
        space: draws a ratio of its own for every channel group; else one for all.
    """

    def ratios(n: int) -> list[float]:
        # low 0.25, high 1, grid 0.25: 4 steps, so 0.25, 0.5, 0.75 and 1 with equal probability. 1e-9: (1 - 0.3) / 0.1
        # is just below 7; `round`: 0.3 + 3 * 0.1 is just above 0.6, and equal ratios must give equal widths.
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        if grid is None:
            return (low + (high - low) * uniform).tolist()
        steps = int((high - low) / grid + 1e-9) + 1
        return [round(low + grid * int(u * steps), 9) for u in uniform.tolist()]

    if space is None:
        return tuple(ratios(count))
    return tuple(space.from_vector(ratios(len(space.groups))) for _ in range(count))
