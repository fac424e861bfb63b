"""One operation on a list of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def norms_of(tensors: list[Tensor], order: float) -> tuple[Tensor, ...]:
    """The norm of every tensor, each a scalar, in a few kernels for all of them.

    `torch.linalg.vector_norm` takes a kernel for each, and `nn.utils.get_total_norm`, which is public and built on this,
    gives one number for all.
    """
    return tuple(torch._foreach_norm(tensors, ord=order))  # pyright: ignore[reportPrivateImportUsage]
