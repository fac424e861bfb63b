"""Batch norm over the batch of all processes, so that N processes train the network that one would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as _CudaBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

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


def _normalised(x: Tensor, norm: _BatchNorm) -> Tensor:
    """Two passes (mean, then variance around it), each summed over processes; updates running statistics."""
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    count = x.numel() // x.shape[1] * world()  # equal shares: the loader sees to it
    mean = _Sum.apply(wide.sum(dims)) / count
    centred = wide - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / count
    _update_(norm, mean.detach(), variance.detach() * (count / max(count - 1, 1)))
    out = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.weight is not None:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(x.dtype)


def _update_(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
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
            return _normalised(x, self)
        momentum = self.momentum or 0.0
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / self.num_batches_tracked.item()
        group = dist.group.WORLD
        return _CudaBatchNorm.apply(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.eps, momentum, group, world()
        )


_KINDS: dict[type, type] = {
    kind: type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {})
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
}


@contextmanager
def synchronised_(net: Elastic, wanted: bool) -> Iterator[None]:
    """Batch norms of `net` and its views normalise over all processes while the block runs.

    With one process, or `wanted=False`, nothing changes. Only torch's own batch norms are synchronised.
    """
    if not wanted or world() == 1:
        yield
        return
    changed = [(m, type(m)) for m in net.model.modules() if type(m) in _KINDS]
    try:
        for m, kind in changed:
            m.__class__ = _KINDS[kind]
        net.drop_views_()
        yield
    finally:
        for m, kind in changed:
            m.__class__ = kind
        net.drop_views_()
