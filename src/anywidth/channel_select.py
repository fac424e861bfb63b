"""A batch norm that outputs a subset of its channels: the channel selection of Network Slimming.

The positions are a buffer `index` of int64: they are saved and loaded with the weights, and known without asking the device
when an image passes. The class of the norm stays what it is.

Source: Liu et al., arXiv 1708.06519, sec. 3.4, "dealing with cross layer connections".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anywidth.compat.layers import BatchNorm
from anywidth.compat.module_state import forward_hooks_of, forward_pre_hooks_of

INDEX = "index"


def select_(norm: nn.Module, index: Tensor) -> None:
    """Make a norm output only the channels `index` of (N, C, ...).

    Args:
        norm: gets a buffer `index` and a forward hook.
        index: (K,) positions.
    """
    norm.register_buffer(INDEX, index)
    norm.register_forward_hook(_selected)


def _selected(norm: nn.Module, args: Any, out: Tensor) -> Tensor:
    return out.index_select(1, norm.get_buffer(INDEX))


def _select(norm: nn.Module, args: Any) -> Any:
    return (args[0].index_select(1, norm.get_buffer(INDEX)), *args[1:])


@torch.no_grad()
def select_first_(model: nn.Module) -> None:
    """Norms that select hold their selected channels only and read those: the same function, in training too, with less to do.

    A norm that selects everything becomes an ordinary one.
    """
    for norm in model.modules():
        if not selects(norm):
            continue
        assert isinstance(norm, BatchNorm)
        # Before: x (N, 64, H, W) -> norm of 64 channels -> index_select -> (N, 16, H, W).
        # After:  x (N, 64, H, W) -> index_select -> (N, 16, H, W) -> norm of 16 channels. A batch norm treats channels one by one, so
        # the two are equal.
        index = norm.get_buffer(INDEX)
        hooks = forward_hooks_of(norm)
        for key in [k for k, hook in hooks.items() if hook is _selected]:
            del hooks[key]
        if torch.equal(index, torch.arange(norm.num_features, device=index.device)):
            delattr(norm, INDEX)
            continue
        for name, p in list(norm.named_parameters(recurse=False)):
            setattr(norm, name, nn.Parameter(p.index_select(0, index), p.requires_grad))
        for name, t in list(norm.named_buffers(recurse=False)):
            if name != INDEX and t.ndim == 1:
                setattr(norm, name, t.index_select(0, index))
        norm.num_features = index.numel()
        norm.register_forward_pre_hook(_select)


def selects(module: nn.Module) -> bool:
    """Whether a norm of all channels outputs a subset of them (and is not one of `select_first_`)."""
    return _selected in forward_hooks_of(module).values()


def has_index(module: nn.Module) -> bool:
    """Whether a norm stores which channels it reads, before or after it."""
    return selects(module) or _select in forward_pre_hooks_of(module).values()


def handed_on(norm: BatchNorm) -> int:
    """How many channels come out of a norm."""
    return norm.get_buffer(INDEX).numel() if has_index(norm) else norm.num_features
