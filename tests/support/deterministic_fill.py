"""Random weights that depend on the name of each tensor alone, so that two programs make the same ones."""

import math
from collections.abc import Mapping
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.Generator(np.random.PCG64(crc32(name.encode())))
    kind = name.rpartition(".")[2]
    if len(shape) >= 2:
        return random.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    low, high = {"weight": (0.5, 1.5), "running_var": (0.5, 1.5)}.get(kind, (-0.2, 0.2))
    assert kind in ("weight", "bias", "running_mean", "running_var"), name
    return random.uniform(low, high, shape)


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict, filled: weights of variance 2 / fan_in, scales 0.5..1.5, shifts and means -0.2..0.2,
    variances 0.5..1.5, counters 1, selection vectors 1."""
    made = {}
    for name, tensor in state.items():
        if name.endswith(("num_batches_tracked", "indexes")):
            made[name] = torch.ones_like(tensor)
        else:
            made[name] = torch.from_numpy(_values(name, tuple(tensor.shape))).to(torch.float32)
    return made
