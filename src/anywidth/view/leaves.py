"""Leaf modules in inference: their tensors are checked once a call and read at the speed of slots.

    view     Conv2d   __dict__ of the wide module, weight: a property that cuts
    reader   Conv2d   __dict__ of the wide module, weight: a slot with what was cut

A property costs about a microsecond a read, and a batch norm reads five tensors. A reader is made for the wide tensors of one
moment and never changed, so that threads can share it; it lies with the packed copies of its view, and goes when they go.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.view.packs import Pack

HELD = "reader of the module"
"""Key of `Held` among the packed copies of a view."""
_PLAIN = (Tensor, nn.Parameter)
_STATISTICS = ("running_mean", "running_var")
# A tensor inside vmap or jvp has no memory of its own.
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]


class _Reader:
    """Mixed in before the class of the module."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Readers do not register themselves where subclasses of the user's classes do."""


@dataclass(slots=True, frozen=True)
class Held:
    """A reader, and what it was made of.

    Attributes:
        parameters: name, wide tensor, its address and type, its packed copy if it has one.
        statistics: name, wide tensor, name and tensor of this width.
        learnt: of the copies' store, see there.
    """

    reader: Any
    parameters: tuple[tuple[str, Tensor | None, int, torch.dtype | None, Pack | None], ...]
    statistics: tuple[tuple[str, Tensor, str, Tensor], ...]
    learnt: int


_classes: weakref.WeakValueDictionary[tuple[type, tuple[str, ...]], type] = weakref.WeakValueDictionary()


def _reader_class(kind: type, names: tuple[str, ...]) -> type:
    known = _classes.get((kind, names))
    if known is None:
        known = type(kind)(kind.__name__, (_Reader, kind), {"__slots__": names, "__module__": kind.__module__, "__qualname__": kind.__qualname__})  # fmt: skip
        _classes[kind, names] = known
    return known


def reader_of(view: Any) -> Any:
    """What stands for a leaf module of a view while it is called in evaluation mode without gradients; None if nothing can.

    Args:
        view: module of a view without hooks or anything of its own, whose wide module is in evaluation mode.
    """
    held: Held | None = view._view_packs.get(HELD)
    if held is None:
        return _hold(view)
    state = view.__dict__
    parameters = state["_parameters"]
    for name, wide, pointer, dtype, pack in held.parameters:
        if parameters[name] is not wide:
            return _hold(view)
        if wide is None:
            continue
        if wide.data_ptr() != pointer or wide.dtype is not dtype:
            return _hold(view)
        if pack is not None and (
            wide._version != pack.version
            or wide.untyped_storage()._cdata != pack.storage
            or held.learnt != view._view_shared.packs.learnt
            or wide.grad is not None
        ):
            return _hold(view)
    if held.statistics:
        norm, buffers = view._view_norm, state["_buffers"]
        for name, wide, full, tensor in held.statistics:
            if buffers[name] is not wide or norm.tensors.get(full) is not tensor:
                return _hold(view)
        if not norm.ready():
            return None
    return held.reader


def _hold(view: Any) -> Any:
    """A new reader; None if the tensors need more than being cut."""
    packs = view._view_shared.packs
    view._view_packs.pop(HELD, None)
    if packs is None or torch._C._len_torch_dispatch_stack():
        return None
    values: dict[str, Any] = {}
    parameters, statistics = [], []
    for name, wide in view.__dict__["_parameters"].items():
        part, pack = view._view_slices.get(name), None
        norm = view._view_norm
        if norm is not None and norm.affine and norm.parameter(name) is not None:
            return None
        if wide is not None:
            if type(wide) not in _PLAIN or wide.is_inference() or _is_wrapped(wide):
                return None
            if part is not None:
                if wide.shape != part.wide or wide.grad is not None:
                    return None
                t = packs.take(view._view_shared.number, view._view_packs, name, wide, part)
                pack = view._view_packs.get(name)
                if pack is None or pack.part is not t:  # there was no room for it
                    return None
        values[name] = wide if pack is None else pack.part
        copied = pack if pack is not None and pack.bytes else None
        parameters.append((name, wide, 0 if wide is None else wide.data_ptr(), None if wide is None else wide.dtype, copied))  # fmt: skip
    if view.__dict__["_buffers"]:
        norm = view._view_norm
        if norm is None or not norm.ready():
            return None
        for name in _STATISTICS:
            wide, full = view.__dict__["_buffers"][name], norm.names[name]
            tensor = norm.tensors.get(full)
            if (
                wide is None
                or tensor is None
                or tensor.dtype is not wide.dtype
                or tensor.device != wide.device
            ):
                return None
            values[name] = tensor
            statistics.append((name, wide, full, tensor))
    kind = view._view_kind
    values |= {name: getattr(view, name) for name in view._view_narrow}
    reader = object.__new__(_reader_class(kind, tuple(values)))
    object.__setattr__(reader, "__dict__", view.__dict__)
    for name, value in values.items():
        object.__setattr__(reader, name, value)
    with packs.lock:
        if all(pack is None or view._view_packs.get(name) is pack for name, *_, pack in parameters):
            view._view_packs[HELD] = Held(reader, tuple(parameters), tuple(statistics), packs.learnt)
    return reader
