"""Regularisers that press channels towards zero, so that they can be pruned.

Each adds its (sub)gradient to the gradients of a step, once per optimiser step: after the reduction over processes, after
unscaling (mixed precision) and after clipping, so that nothing weakens it. The reported losses do not contain it.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.compat.layers import BatchNorm
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.space.axes import spelled_out
from anywidth.tracing.groups import writing_axes

_BINS = 40


@dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    """Which regulariser, how strong, where and when.

    Attributes:
        l1: lambda of lambda * sum |scale| over batch-norm scales (Network Slimming, arXiv 1708.06519, eq. 1; 1e-4 for
            VGG, 1e-5 for ResNet and DenseNet there). A scale of exactly 0 feels nothing.
        polarization: t; makes the term lambda * (t sum |scale| - sum |scale - mean|), which drives scales apart
            (Zhuang et al., NeurIPS 2020, eq. 3; the mean is over all scales). 0 for none.
        group_lasso: lambda of lambda * sum over channels of the norm of all weights that make it (Wen et al.,
            arXiv 1608.03665).
        norms: glob pattern of the batch norms (and, for group_lasso, the layers) that it acts on.
        start, stop: epochs between which it acts; `stop` 0 is the end.
        init: value that all these scales get before the first step (0.5 in Network Slimming); 0 leaves them.

    Raises:
        ValueError: for a number out of its range.
    """

    l1: float = 0.0
    polarization: float = 0.0
    group_lasso: float = 0.0
    norms: str = "*"
    start: float = 0.0
    stop: float = 0.0
    init: float = 0.0

    def __post_init__(self) -> None:
        for name in ("l1", "polarization", "group_lasso", "start", "stop", "init"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"sparsity.{name} = {value!r}: expected a number from 0")
        if self.stop and self.stop <= self.start:
            raise ValueError(
                f"sparsity.stop = {self.stop!r}: expected epochs after start = {self.start:g}, or 0"
            )
        if self.polarization and not self.l1:
            raise ValueError("sparsity.polarization shapes the term of sparsity.l1: set that too, like 1e-4")

    @property
    def on(self) -> bool:
        return self.l1 > 0 or self.group_lasso > 0

    def acts(self, epoch: float) -> bool:
        """Whether it acts at a time in epochs."""
        return self.on and self.start <= epoch and (not self.stop or epoch < self.stop)


def scales_of(net: Elastic, norms: str = "*") -> dict[str, nn.Parameter]:
    """Name -> scale of the batch norms whose path matches, those of switchable widths too."""
    scales = {
        f"{path}.weight": m.weight
        for path, m in net.model.named_modules()
        if isinstance(m, BatchNorm) and m.weight is not None and fnmatch.fnmatchcase(path, norms)
    }
    for name, p in net.norms.affine.items():
        path = name.split("/")[1].replace(":", ".")
        if name.endswith("weight") and fnmatch.fnmatchcase(path, norms):
            scales[name] = p
    return scales


class Sparsity:
    """The regulariser of a training.

    Args:
        net: the network.
        config: the settings.

    Raises:
        RecipeError: no batch norm, or no layer, matches.
    """

    def __init__(self, net: Elastic, config: SparsityConfig) -> None:
        self.net, self.config = net, config
        if (config.l1 or config.init) and not scales_of(net, config.norms):
            raise RecipeError(
                f"train.sparsity.norms = {config.norms!r}: no batch norm with a scale has such a path in "
                f"{type(net.model).__name__}; sparsity on scales needs one"
            )
        if config.group_lasso and not self._layers:
            raise RecipeError(
                f"train.sparsity.norms = {config.norms!r}: no layer with elastic channels has such a path"
            )

    @torch.no_grad()
    def init_(self) -> None:
        """Give the scales their first value."""
        if self.config.init:
            for p in scales_of(self.net, self.config.norms).values():
                p.fill_(self.config.init)

    @torch.no_grad()
    def add_(self, epoch: float) -> None:
        """Add the subgradient to the gradients, if it acts at this time."""
        if not self.config.acts(epoch):
            return
        if self.config.l1:
            scales = list(scales_of(self.net, self.config.norms).values())
            for p, slope in zip(scales, slopes(scales, self.config.polarization), strict=True):
                _add_(p, self.config.l1 * slope)
        if self.config.group_lasso:
            self._group_lasso_()

    @cached_property
    def _layers(self) -> list[tuple[str, int, Tensor]]:
        """Weight, its output axis, and for every position there the number of its channel (-1: fixed)."""
        # Groups of 64 and 128 channels: offsets (0, 64, 192), and unit 5 of group 1 is channel 69. Layers that are added share a
        # group, so one channel may have rows of several weights.
        space = self.net.space
        offsets = torch.tensor([0, *(g.size for g in space.groups)]).cumsum(0)
        layers = []
        weights = {name for name, p in self.net.model.named_parameters() if p.ndim > 1}
        places = [
            (n, d) for n, dims in writing_axes(self.net.model, space).items() if n in weights for d in dims
        ]
        for name, dim in places:
            axis = space.axis(name, dim)
            if axis is not None and fnmatch.fnmatchcase(name.rpartition(".")[0], self.config.norms):
                group, unit = map(torch.from_numpy, spelled_out(axis))
                layers.append((name, dim, torch.where(group < 0, -1, offsets[group] + unit)))
        return layers

    def _group_lasso_(self) -> None:
        # The gradient of |w_c|, the norm of all weights of channel c, is w / |w_c|: squares are summed per channel over all its
        # layers, and each row is divided by the root. An empty channel has the subgradient 0.
        weights = dict(self.net.model.named_parameters())
        device = next(iter(weights.values())).device
        squares = torch.zeros(sum(g.size for g in self.net.space.groups), device=device)
        for name, dim, channel in self._layers:
            rows = weights[name].movedim(dim, 0).flatten(1).float().square().sum(1)
            elastic = (channel >= 0).to(device)
            squares.index_add_(0, channel.to(device)[elastic], rows[elastic])
        inverse = torch.where(squares > 0, squares.clamp_min(1e-24).rsqrt(), 0.0)
        for name, dim, channel in self._layers:
            w = weights[name]
            factor = torch.where(channel.to(device) < 0, 0.0, inverse[channel.to(device).clamp_min(0)])
            shape = [-1 if d == dim else 1 for d in range(w.ndim)]
            _add_(w, self.config.group_lasso * w * factor.to(w).reshape(shape))

    def summary(self) -> dict[str, Any]:
        """What a log says of the scales: share near zero, mean, maximum, and a histogram."""
        return histogram(scales_of(self.net, self.config.norms).values())


def slopes(scales: list[nn.Parameter], polarization: float = 0.0) -> list[Tensor]:
    """Subgradient of sum |scale|, or of t sum |scale| - sum |scale - mean|, for every tensor; sign(0) = 0."""
    if not polarization:
        return [p.detach().sign() for p in scales]
    # The mean depends on every scale: d/ds_i sum_j |s_j - m| = sign(s_i - m) - mean_j sign(s_j - m).
    # Scales (0, 1, 3), t = 1: signs (0, 1, 1) - (-1, -1, 1) - 1/3 = (2/3, 5/3, -1/3).
    flat = torch.cat([p.detach().flatten() for p in scales])
    apart = (flat - flat.mean()).sign()
    slope = polarization * flat.sign() - apart + apart.mean()
    return [s.reshape(p.shape) for s, p in zip(slope.split([p.numel() for p in scales]), scales, strict=True)]


def _add_(p: nn.Parameter, slope: Tensor) -> None:
    if not p.requires_grad:
        return
    if p.grad is None:
        p.grad = slope.to(p.dtype)
    else:
        p.grad.add_(slope)


@torch.no_grad()
def histogram(scales: Any) -> dict[str, Any]:
    """Of |scale|: share below 0.01, mean, maximum, and counts in equal bins from 0 to the maximum."""
    flat = torch.cat([p.detach().abs().float().flatten().cpu() for p in scales])
    top = float(flat.max())
    counts = torch.histc(flat, bins=_BINS, min=0.0, max=top or 1.0)
    return {
        "near_zero": float((flat < 0.01).float().mean()),
        "mean": float(flat.mean()),
        "max": top,
        "histogram": {"counts": counts.int().tolist(), "top": top or 1.0},
    }
