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
from torch import Tensor

from anywidth.compat.module_state import BUFFERS, PARAMETERS
from anywidth.compat.tensors import is_functorch_wrapped, storage_address, version_of
from anywidth.compat.tracing import dispatch_mode_count
from anywidth.views.base import MISSING
from anywidth.views.packed_copies import Pack
from anywidth.views.slices import PLAIN

HELD = "reader of the module"
"""Key of `Held` among the packed copies of a view."""
_STATISTICS = ("running_mean", "running_var")


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


def _reader_class(module_class: type, names: tuple[str, ...]) -> type:
    known = _classes.get((module_class, names))
    if known is None:
        known = type(module_class)(module_class.__name__, (_Reader, module_class), {"__slots__": names, "__module__": module_class.__module__, "__qualname__": module_class.__qualname__})  # fmt: skip
        _classes[module_class, names] = known
    return known


def reader_of(view: Any) -> Any:
    """What stands for a leaf module of a view while it is called in evaluation mode without gradients; None if nothing can.

    Args:
        view: module of a view without hooks or anything of its own, whose wide module is in evaluation mode.
    """
    cached: Held | None = view._view_packs.get(HELD)
    if cached is None:
        return _hold(view)
    # An alias of the wide tensor follows in-place writes by itself; it is stale only if the memory or the type is another.
    # A packed copy also is after any write (version), after `.data =` to the same address (storage), and while a fused
    # optimiser, which leaves no version, may have stepped (learnt, grad).
    state = view.__dict__
    parameters = state[PARAMETERS]
    for name, wide_tensor, pointer, dtype, pack in cached.parameters:
        if parameters.get(name, MISSING) is not wide_tensor:
            return _hold(view)
        if wide_tensor is None:
            continue
        if wide_tensor.data_ptr() != pointer or wide_tensor.dtype is not dtype:
            return _hold(view)
        if pack is not None and (
            version_of(wide_tensor) != pack.version
            or storage_address(wide_tensor) != pack.storage
            or cached.learnt != view._view_shared.packs.learnt
            or wide_tensor.grad is not None
        ):
            return _hold(view)
    if cached.statistics:
        norm, buffers = view._view_norm, state[BUFFERS]
        for name, wide_tensor, full, tensor in cached.statistics:
            if buffers.get(name) is not wide_tensor or norm.tensors.get(full) is not tensor:
                return _hold(view)
        if not norm.ready():
            return None
    return cached.reader


def _hold(view: Any) -> Any:
    """A new reader; None if the tensors need more than being cut."""
    packs = view._view_shared.packs
    view._view_packs.pop(HELD, None)
    if packs is None or dispatch_mode_count():
        return None
    if not view._view_parameters <= view.__dict__[PARAMETERS].keys():  # the view says which one is gone
        return None
    values: dict[str, Any] = {}
    parameters, statistics = [], []
    for name, wide_tensor in view.__dict__[PARAMETERS].items():
        active_slice, pack = view._view_slices.get(name), None
        norm = view._view_norm
        if norm is not None and norm.affine and norm.parameter(name) is not None:
            return None
        if wide_tensor is not None:
            if (
                type(wide_tensor) not in PLAIN
                or wide_tensor.is_inference()
                or is_functorch_wrapped(wide_tensor)
            ):
                return None
            if active_slice is not None:
                if wide_tensor.shape != active_slice.wide_shape or wide_tensor.grad is not None:
                    return None
                t = packs.take(view._view_shared.number, view._view_packs, name, wide_tensor, active_slice)
                pack = view._view_packs.get(name)
                if pack is None or pack.active is not t:  # there was no room for it
                    return None
        values[name] = wide_tensor if pack is None else pack.active
        copied = pack if pack is not None and pack.bytes else None
        parameters.append((name, wide_tensor, 0 if wide_tensor is None else wide_tensor.data_ptr(), None if wide_tensor is None else wide_tensor.dtype, copied))  # fmt: skip
    if view.__dict__[BUFFERS]:
        norm = view._view_norm
        if norm is None or not norm.ready():
            return None
        for name in _STATISTICS:
            wide_tensor, full = view.__dict__[BUFFERS].get(name), norm.names[name]
            tensor = norm.tensors.get(full)
            if (
                wide_tensor is None
                or tensor is None
                or tensor.dtype is not wide_tensor.dtype
                or tensor.device != wide_tensor.device
            ):
                return None
            values[name] = tensor
            statistics.append((name, wide_tensor, full, tensor))
    module_class = view._view_kind
    values |= {name: getattr(view, name) for name in view._view_narrow}
    reader = object.__new__(_reader_class(module_class, tuple(values)))
    object.__setattr__(reader, "__dict__", view.__dict__)
    for name, value in values.items():
        object.__setattr__(reader, name, value)
    with packs.lock:
        if all(pack is None or view._view_packs.get(name) is pack for name, *_, pack in parameters):
            view._view_packs[HELD] = Held(reader, tuple(parameters), tuple(statistics), packs.learnt)
    return reader
