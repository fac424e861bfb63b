"""Norms over channels in masked networks: a LayerNorm of a narrow network knows nothing of channels that are gone.

A channel that is zero is not a channel that is missing: it counts in the mean and the variance that a LayerNorm, an RMSNorm or a
GroupNorm takes over channels. So in a masked network these norms look at the kept channels alone and give zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.compat.layers import FeatureNorm
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width


class OverKept:
    """In the place of a norm's `forward`: its narrow form on the kept channels, zeros at the others.

    Args:
        norm: the norm of the masked network; its parameters have their full size, and go on to be what is trained and saved.
        narrow: the same norm as the extracted network has it.
        kept: name of a parameter -> (dimension, positions along it that are kept).
    """

    def __init__(self, norm: nn.Module, narrow: nn.Module, kept: Mapping[str, tuple[int, Tensor]]) -> None:
        self.norm, self.narrow, self.kept = norm, narrow, kept
        self.name = next(iter(kept))

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        parameters = {}
        for name, p in self.norm.named_parameters():
            axis = self.kept.get(name)
            parameters[name] = p if axis is None else p.index_select(axis[0], axis[1].to(p.device))
        positions = self.kept[self.name][1].to(x.device)
        *likely, last = self._channel_dims(x)
        for dim in likely:
            try:
                return self._over(x, dim, positions, parameters, args, kwargs)
            except (
                RuntimeError,
                ValueError,
            ):  # an image as high as it has channels, and the norm is along the others
                continue
        return self._over(x, last, positions, parameters, args, kwargs)

    def _over(
        self, x: Tensor, dim: int, positions: Tensor, parameters: dict[str, Tensor], args: Any, kwargs: Any
    ) -> Tensor:
        narrow_input = x.index_select(dim, positions)
        out = torch.func.functional_call(self.narrow, parameters, (narrow_input, *args), kwargs)
        return x.new_zeros(x.shape, dtype=out.dtype).index_copy(dim, positions, out)

    def _channel_dims(self, x: Tensor) -> list[int]:
        """Where the channels may be, the likeliest first."""
        weight = self.norm.get_parameter(self.name)
        if weight.ndim > 1:  # of the trailing dimensions, as in LayerNorm((C, H, W))
            return [x.ndim - weight.ndim + self.kept[self.name][0]]
        dims = [1, x.ndim - 1] if isinstance(self.norm, nn.GroupNorm) else [x.ndim - 1, 1]
        return [d for d in dims if x.shape[d] == weight.numel()] or [1]


def over_kept_(masked_model: nn.Module, small: nn.Module, space: ChannelSpace, width: Width) -> None:
    """Let the norms over channels of a masked network look at the kept channels alone.

    Args:
        small: the extracted network at this width.
    """
    for path, m in list(masked_model.named_modules()):
        if not is_channel_norm(m):
            continue
        kept: dict[str, tuple[int, Tensor]] = {}
        for name, _ in m.named_parameters():
            for dim in range(m.get_parameter(name).ndim):
                positions = space.kept(f"{path}.{name}", dim, width)
                if positions is not None and not positions.all():
                    kept[name] = dim, torch.from_numpy(np.flatnonzero(positions))
        if kept:
            vars(m)["forward"] = OverKept(m, small.get_submodule(path), kept)


def is_channel_norm(m: nn.Module) -> bool:
    """Whether a module is a norm that may take statistics over channels: by its class's name, as every library has its own."""
    parts_with_parameters = [
        part for part in m.modules() if part is not m and any(True for _ in part.parameters(recurse=False))
    ]
    return "norm" in type(m).__name__.lower() and not isinstance(m, FeatureNorm) and not parts_with_parameters
