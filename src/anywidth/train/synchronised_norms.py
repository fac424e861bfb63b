"""Batch norm over the batch of all processes, so that N processes train the network that one would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from anywidth.compat.distributed import synchronised_batch_norm
from anywidth.compat.layers import BatchNorm
from anywidth.elastic import Elastic
from anywidth.train.distributed import world


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def _normalised(x: Tensor, norm: BatchNorm, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Two passes (mean, then variance around it), each summed over processes; updates running statistics.

    Processes may have different numbers of elements:

        process 0    x (2, C, 8, 8)    sum over 128 elements   }  one all-reduce: (C sums, count)
        process 1    x (2, C, 6, 10)   sum over 120 elements   }  mean = sums / 248
    """
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    x32 = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    local_count = x32.new_full((1,), x.numel() // x.shape[1])
    sums = _Sum.apply(torch.cat([x32.sum(dims), local_count]))
    count = sums[-1].detach().clamp_min(1)
    mean = sums[:-1] / count
    centred = x32 - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / count
    # Running variances are unbiased, as torch has them: n / (n - 1).
    _update_(norm, mean.detach(), variance.detach() * (count / (count - 1).clamp_min(1)))
    out = centred * (variance + norm.eps).rsqrt().view(shape)
    if weight is not None and bias is not None:
        out = out * weight.view(shape) + bias.view(shape)
    return out.to(x.dtype)


def _update_(norm: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var), momentum)


class _Synchronised(nn.Module):
    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        if not x.is_cuda:
            return _normalised(x, self, self.weight, self.bias)
        # As torch's own batch norm: without a momentum the running statistics are plain means over steps.
        momentum = self.momentum or 0.0
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / self.num_batches_tracked.item()
        group = dist.group.WORLD
        return synchronised_batch_norm(  # gathers the processes' numbers of elements
            x, self.weight, self.bias, self.running_mean, self.running_var, self.eps, momentum, group, world()
        )


_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@cache
def _synchronised_class(norm_class: type) -> type | None:
    """The synchronised class of torch's batch norms, also of sharded ones, whose class `fully_shard` made; None for others."""
    plain = norm_class.__mro__[2] if issubclass(norm_class, FSDPModule) else norm_class
    return (
        type(f"Synchronised{norm_class.__name__}", (_Synchronised, norm_class), {})
        if plain in _KINDS
        else None
    )


@contextmanager
def synchronised_(net: Elastic, enabled: bool) -> Iterator[None]:
    """Batch norms of `net` and its views normalise over all processes while the block runs.

    With one process, or `enabled=False`, nothing changes. Only torch's own batch norms are synchronised.
    """
    if not enabled or world() == 1:
        yield
        return
    modules = [(m, type(m), _synchronised_class(type(m))) for m in net.model.modules()]
    changed = [
        (m, norm_class, synchronised) for m, norm_class, synchronised in modules if synchronised is not None
    ]
    try:
        for m, _, synchronised in changed:
            # Changing the class instead of the module keeps parameters, names and optimiser state; `super()` is the old class.
            m.__class__ = synchronised
        net.drop_views_()  # views are of subclasses of these classes
        yield
    finally:
        for m, norm_class, _ in changed:
            m.__class__ = norm_class
        net.drop_views_()
