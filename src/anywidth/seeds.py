"""Random generators, one for each purpose, all from one seed."""

import numpy as np
import torch


def generator(seed: int, *stream: int) -> torch.Generator:
    """A CPU generator for one purpose; different streams of a seed are independent."""
    (state,) = np.random.SeedSequence([seed, *stream]).generate_state(1, dtype=np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
