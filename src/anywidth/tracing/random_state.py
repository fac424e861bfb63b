"""The random numbers that a model draws while it is looked at are drawn again by whoever comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from anywidth.compat.module_state import tensors_of


@contextmanager
def random_state_kept(model: nn.Module, drawn: Callable[[], bool]) -> Iterator[None]:
    """The generators of the process are put back after the context, if random numbers were drawn inside.

    They belong to all threads: where nothing was drawn they are left alone, as what other threads draw meanwhile would be
    drawn twice.

    Args:
        model: the generators are those of the CPU and of the GPUs that it is on.
        drawn: asked at the end.
    """
    gpus = {t.device for t in tensors_of(model) if t.is_cuda}
    state, gpu_states = torch.get_rng_state(), {gpu: torch.cuda.get_rng_state(gpu) for gpu in gpus}
    try:
        yield
    finally:
        if drawn():
            torch.set_rng_state(state)
            for gpu, gpu_state in gpu_states.items():
                torch.cuda.set_rng_state(gpu_state, gpu)
