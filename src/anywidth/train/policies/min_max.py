"""Only the widest and the narrowest width."""

import torch

from anywidth.train.policies.draw import Draw, Widths, check_range, width_policy


@width_policy()
def min_max(*, low: float, high: float = 1.0) -> Draw:
    """The widest and the narrowest at every step (the ablation of arXiv 1903.05134, section 4.2)."""
    check_range(low, high, 0)

    def draw(generator: torch.Generator, progress: float = 0.0) -> Widths:
        return (high, low)

    return draw
