"""The widest and some random widths, without the narrowest."""

import torch

from anywidth.space.channel_space import ChannelSpace
from anywidth.train.policies.draw import Draw, Widths, check_range, random_widths, width_policy


@width_policy(draws_random=True)
def random_only(
    *,
    low: float,
    high: float = 1.0,
    random: int = 2,
    grid: float | None = None,
    per_group: bool = False,
    space: ChannelSpace | None = None,
) -> Draw:
    """At each step the widest and some random widths; arguments as in `sandwich`."""
    check_range(low, high, random, grid)
    groups = space if per_group else None

    def draw(generator: torch.Generator, progress: float = 0.0) -> Widths:
        return (high, *random_widths(generator, random, low=low, high=high, grid=grid, space=groups))

    return draw
