"""What a user gets who asks a view for a parameter: a part of the wide tensor, in the graph.

A forward reads plain tensors. Code around it, that lists, writes or inspects parameters, gets these: no leaves, so that no
optimiser takes them; with the wide tensor's gradient; and what is written to them reaches the wide network also where the
active channels are no slice, but a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from anywidth.compat.tensors import DisableTorchFunctionSubclass, ParameterLike, storage_address, version_of
from anywidth.errors import ViewError
from anywidth.views.slices import Slice


class ViewParameter(ParameterLike):
    """A parameter of a view. Its `grad` is the active part of the wide parameter's."""

    __torch_function__: Any = nn.Parameter.__torch_function__  # plain results

    _wide: Tensor
    _active_slice: Slice | None
    _state: tuple[Any, ...]  # of the wide tensor, when this part was taken

    @property
    def grad(self) -> Tensor | None:
        gradient = self._wide.grad
        return (
            gradient
            if gradient is None or self._active_slice is None
            else _taken(gradient, self._active_slice)
        )

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            raise ViewError(
                "the gradient of a view's parameter is a part of the wide parameter's; set that one (net.model)."
            )
        self._wide.grad = None

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        with torch.no_grad():
            self.copy_(value)

    @property
    def requires_grad(self) -> bool:
        return self._wide.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> NoReturn:
        raise ViewError(
            "a view's parameters cannot be frozen or unfrozen: they are parts of the wide network's. Freeze those (net.model), run the "
            "view under torch.no_grad(), or take a copy: net.extract(width)."
        )

    def register_hook(self, hook: Any) -> NoReturn:
        raise ViewError(
            "a hook on a view's parameter would never run: every read of it is a new part of the wide parameter. Register the hook on that "
            "one (net.model)."
        )


class WriteThrough(ViewParameter):
    """A gathered part of a wide tensor. In-place changes, also through `data`, `detach()` and slices, are written to the wide
    tensor at once.
    """

    _copy: Tensor
    _seen: int

    def detach(self) -> Tensor:
        with DisableTorchFunctionSubclass():
            return _attached(Tensor.detach(self), self._wide, self._active_slice, self._copy)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
            gathered = list(_gathered((args, kwargs)))
            # An in-place operation bumps the version that all aliases of the copy share: `t.data.mul_(2)` and `t[0].zero_()`
            # are seen here as well as `t.mul_(2)`.
            for t in gathered:
                if (version := version_of(t)) != t._seen:
                    t._seen = version
                    _write(t)
            if _is_plain(out):
                for t in gathered:
                    if storage_address(out) == storage_address(t):
                        return _attached(out, t._wide, t._active_slice, t._copy)
            return out


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, WriteThrough) and value.layout is torch.strided


@torch.no_grad()
def _write(t: WriteThrough) -> None:
    assert t._active_slice is not None
    t._active_slice.cut.write_(t._wide.detach(), t._copy)


def _attached(t: Tensor, wide_tensor: Tensor, active_slice: Slice | None, copy: Tensor) -> WriteThrough:
    attached = t.as_subclass(WriteThrough)
    attached._wide, attached._active_slice, attached._copy, attached._seen = (
        wide_tensor,
        active_slice,
        copy,
        version_of(attached),
    )
    return attached


def _gathered(value: Any) -> Iterator[WriteThrough]:
    if isinstance(value, WriteThrough):
        yield value
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _gathered(v)
    elif isinstance(value, dict):
        yield from _gathered(list(value.values()))


def _taken(t: Tensor, active_slice: Slice) -> Tensor:
    """A part of a tensor without a graph, through which that tensor can be written."""
    copy = active_slice.take(t)
    if active_slice.aliases:
        return copy
    with DisableTorchFunctionSubclass():
        return _attached(copy, t, active_slice, copy.detach())


def state_of(wide_tensor: Tensor) -> tuple[Any, ...]:
    """What must be the same for a part that was taken to be the part that would be taken now."""
    version = None if wide_tensor.is_inference() else version_of(wide_tensor)
    return (
        version,
        wide_tensor.data_ptr(),
        wide_tensor.dtype,
        wide_tensor.device,
        wide_tensor.requires_grad,
        torch.is_inference_mode_enabled(),
    )


def plain(t: Tensor) -> Tensor:
    """A copy without a graph that knows nothing of the wide tensor."""
    with DisableTorchFunctionSubclass():
        return Tensor.detach(t).as_subclass(Tensor).clone(memory_format=torch.contiguous_format)


def handed_out(wide_tensor: Tensor, active_slice: Slice | None) -> Tensor:
    """The active part of a wide tensor, all of it if `active_slice` is None, for code outside of a forward."""
    if active_slice is not None and not active_slice.aliases:
        t = active_slice.take(wide_tensor)
        with DisableTorchFunctionSubclass():
            t = _attached(t, wide_tensor, active_slice, t.detach())
    else:
        t = (
            wide_tensor.view_as(wide_tensor) if active_slice is None else active_slice.take(wide_tensor)
        ).as_subclass(ViewParameter)
        t._wide, t._active_slice = wide_tensor, active_slice
    t._state = state_of(wide_tensor)
    return t
