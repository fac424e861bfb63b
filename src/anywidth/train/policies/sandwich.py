"""The sandwich rule of universally slimmable networks."""

import torch

from anywidth.space.channel_space import ChannelSpace
from anywidth.train.policies.draw import Draw, Widths, check_range, random_widths, width_policy


@width_policy(draws_random=True)
def sandwich(
    *,
    low: float,
    high: float = 1.0,
    random: int = 2,
    grid: float | None = None,
    per_group: bool = False,
    space: ChannelSpace | None = None,
) -> Draw:
    """At each step the widest, the narrowest, and some random widths between them.

    Args:
        low, high: the narrowest and the widest ratio.
        random: how many widths are drawn.
        grid: step between random ratios; None for any ratio in [low, high).
        per_group: a ratio of its own for each channel group of `space`, as a search for widths needs.
        space: of the network; only for `per_group`.

    Raises:
        WidthError: for a range that cannot be.

    Source: Yu and Huang, arXiv 1903.05134, section 3.2.
    """
    check_range(low, high, random, grid)
    groups = space if per_group else None

    def draw(generator: torch.Generator, progress: float = 0.0) -> Widths:
        return (high, low, *random_widths(generator, random, low=low, high=high, grid=grid, space=groups))

    return draw
