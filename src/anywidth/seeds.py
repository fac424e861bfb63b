"""Random generators, one for each purpose, all from one seed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, *stream: int) -> torch.Generator:
    """A CPU generator for one purpose; different streams of a seed are independent. Zeros at their end do not count."""
    # `SeedSequence` mixes seed and stream, so that generator(0, 1) and generator(1, 0) have nothing in common; seed + stream would
    # not do.
    (state,) = np.random.SeedSequence([seed, *stream]).generate_state(1, dtype=np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """The global generators of torch, numpy and Python start from `seed` within the block, and are put back after it."""
    if seed is None:
        yield
        return
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
