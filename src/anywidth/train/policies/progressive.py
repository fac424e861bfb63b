"""Widths that open up while the training goes on."""

import torch

from anywidth.errors import WidthError
from anywidth.space.channel_space import ChannelSpace
from anywidth.train.policies.draw import Draw, Widths, check_range, random_widths, width_policy


@width_policy(draws_random=True)
def progressive(
    *,
    low: float,
    high: float = 1.0,
    random: int = 2,
    until: float = 0.5,
    grid: float | None = None,
    per_group: bool = False,
    space: ChannelSpace | None = None,
) -> Draw:
    """The sandwich rule with a narrowest width that falls from `high` to `low`.

    Starts with the widest network alone; the lower end falls linearly and reaches `low` when the part `until`
    of the training is done (progressive shrinking, Cai et al., arXiv 1908.09791, section 3.3, for widths).

    Args:
        until: in (0, 1]; the other arguments are those of `sandwich`. With `grid` the lower end moves on it.
    """
    check_range(low, high, random, grid)
    if not 0 < until <= 1:
        raise WidthError(f"progressive widths: expected 0 < until <= 1, got {until}")
    groups = space if per_group else None

    def draw(generator: torch.Generator, progress: float = 0.0) -> Widths:
        # low 0.25, high 1, until 0.5: the widest alone at the start, down to 0.625 after a quarter, to 0.25 from the half on.
        now = high - (high - low) * min(1.0, progress / until)
        if grid is not None:
            now = high - grid * int((high - now) / grid + 1e-9)
        now = max(low, round(now, 9))
        if now >= high or (grid is not None and high - now < grid - 1e-9):
            return (high,)
        drawn = random_widths(generator, random, low=now, high=high, grid=grid, space=groups)
        return (high, now, *drawn)

    return draw
