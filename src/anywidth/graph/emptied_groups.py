"""Groups that pruning left without channels: what they fed is constant, and need not be computed.

A masked network multiplies the scale and shift of every channel of such a group by zero. Here one silent channel stays in
the group's place, and layers around it that no longer do anything are replaced by their constant output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from anywidth.channel_select import INDEX, selects
from anywidth.compat.layers import BatchNorm, Convolution
from anywidth.compat.module_state import forward_hooks_of
from anywidth.errors import WidthError
from anywidth.space.axes import Axis
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width


class Constant(nn.Module):
    """A convolution or linear layer of which no input is left: its output is its bias, or zero.

    Args:
        layer: the layer, of which only the geometry and the bias stay.
        channels: of the output.
    """

    def __init__(self, layer: Convolution | nn.Linear, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.geometry = None
        if isinstance(layer, Convolution):
            assert not isinstance(layer.padding, str)
            self.geometry = tuple(
                zip(layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
            )
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, any, ...) -> (N, channels, ...) as the layer would shape it."""
        if self.geometry is None:
            output = x.new_zeros([*x.shape[:-1], self.channels])
            return output if self.bias is None else output + self.bias
        # The formula of torch's convolution, for each spatial dimension: n 32, k 3, s 2, p 1, d 1 -> 16.
        space = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, (k, s, p, d) in zip(x.shape[2:], self.geometry, strict=True)
        ]
        output = x.new_zeros([x.shape[0], self.channels, *space])
        return output if self.bias is None else output + self.bias.reshape(1, -1, *[1] * len(space))


def empty_groups(width: Width) -> set[int]:
    return {i for i, k in enumerate(width.kept) if k == 0}


def check_empty(space: ChannelSpace, width: Width) -> None:
    """Refuse empty groups whose place something else may take.

    Raises:
        WidthError: a group is empty whose channels the model routes by position.
    """
    for i in sorted(empty_groups(width)):
        if not space.groups[i].permutable:
            raise WidthError(
                f"group '{space.groups[i].name}' cannot be empty: the model routes these channels by position, and what comes "
                "in their place need not be zero. Keep at least one of them."
            )


def with_silent(width: Width) -> Width:
    """The width with one channel in every empty group."""
    if not empty_groups(width):
        return width
    return dataclasses.replace(width, kept=tuple(max(1, k) for k in width.kept), indices=_filled(width))


def _filled(width: Width) -> tuple[tuple[int, ...] | None, ...] | None:
    if width.indices is None:
        return None
    return tuple((0,) if k == 0 else u for k, u in zip(width.kept, width.indices, strict=True))


@torch.no_grad()
def silence_(small: nn.Module, space: ChannelSpace, width: Width) -> None:
    """Zero the silent channels of a network extracted at `with_silent(width)`, then drop layers that do nothing.

    Args:
        small: changed in place.
        space: of the wide network.
        width: with its empty groups.
    """
    empty = empty_groups(width)
    if not empty:
        return
    replaced: dict[str, nn.Module] = {}
    for path, module in small.named_modules():
        if selects(module):
            if _is_empty(space, f"{path}.{INDEX}", 0, empty):
                for t in module.parameters(recurse=False):
                    t[module.get_buffer(INDEX)] = 0
            continue
        buffers = (
            []
            if isinstance(module, BatchNorm)
            else [b for b in module.named_buffers(recurse=False) if b[1].is_floating_point()]
        )
        for name, t in [*module.named_parameters(recurse=False), *buffers]:
            for dim in range(t.ndim):
                _zero_(t, dim, space.axis(f"{path}.{name}" if path else name, dim), width, empty)
        weight = f"{path}.weight"
        if isinstance(module, BatchNorm) and _is_empty(space, weight, 0, empty):
            replaced[path] = nn.Identity()
        elif isinstance(module, Convolution | nn.Linear) and _plain(module):
            if _is_empty(space, weight, 0, empty):
                # One channel, or several where the silent unit has several positions on the axis.
                silent = Constant(module, module.weight.shape[0])
                silent.bias = None
                replaced[path] = silent
            elif _is_empty(space, weight, 1, empty):
                replaced[path] = Constant(module, module.weight.shape[0])
    for path, module in replaced.items():
        small.set_submodule(path, module)


def _plain(module: Convolution | nn.Linear) -> bool:
    """Whether its output is known without running it."""
    if isinstance(module, Convolution):
        return not module.transposed and not isinstance(module.padding, str) and not forward_hooks_of(module)
    return type(module) is nn.Linear


def _is_empty(space: ChannelSpace, tensor: str, dim: int, empty: Iterable[int]) -> bool:
    """Whether all channels along an axis are of empty groups."""
    axis = space.axis(tensor, dim)
    return axis is not None and all(r.group in empty for r in axis)


def _zero_(t: Tensor, dim: int, axis: Axis | None, width: Width, empty: set[int]) -> None:
    """What makes a silent channel is zero; what reads it may be anything, and so is zero, too."""
    if axis is None or not any(r.group in empty for r in axis):
        return
    # Positions of the extracted tensor: an empty group has its one silent unit (unit 0, `each` positions), others the units kept.
    start = 0
    for r in axis:
        if r.group in empty:
            count = r.each if r.first == 0 else 0
            t.narrow(dim, start, count).zero_()
        elif r.group < 0:
            count = r.positions
        else:
            units = width.units(r.group)
            count = r.each * sum(r.first <= u < r.first + r.count for u in units)
        start += count


def _reading_dims(space: ChannelSpace, name: str) -> list[int]:
    if space.readers is None:  # saved before this was recorded: the layout of most layers
        return [1] if name.endswith("weight") and len(space.axes[name]) > 1 else []
    return [d for n, d in space.readers if n == name]


def deadened(space: ChannelSpace, width: Width) -> Width:
    """The width without the channels that feed empty groups only: nothing reads them any more.

    Channels that are routed by position may be read without a weight, and stay.
    """
    # a -> b -> c with c empty: all readers of b write into empty groups only, so b is empty too, then a; until nothing changes.
    empty = empty_groups(width)
    routed = {i for i, g in enumerate(space.groups) if not g.permutable}
    while empty:
        alive: set[int] = set(routed)
        fed: set[int] = set()
        for name, axes in space.axes.items():
            reading = _reading_dims(space, name)
            groups = {r.group for d in reading for r in axes[d] or () if r.group >= 0}
            fed |= groups
            # What a weight writes: all axes that do not read. Those of a kernel's size are None, and say nothing.
            written = [d for d in range(len(axes)) if d not in reading or (name, d) in space.tied]
            if not any(_is_empty(space, name, d, empty) for d in written):
                alive |= groups
        unread = fed - alive - empty
        if not unread:
            break
        empty |= unread
    kept = tuple(0 if i in empty else k for i, k in enumerate(width.kept))
    indices = width.indices
    if indices is not None:
        indices = tuple(() if i in empty else u for i, u in enumerate(indices))
    return dataclasses.replace(width, kept=kept, indices=indices)
