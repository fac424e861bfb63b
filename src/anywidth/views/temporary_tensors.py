"""What is done to a view stays with that view."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.compat.module_state import TENSOR_REGISTRIES, buffers_of
from anywidth.views.base import Live, written_attribute
from anywidth.views.calling import CALLS
from anywidth.views.tensors import taken


def hold_(view: Any, name: str, value: Any) -> None:
    """Give a module of a view an attribute of its own."""
    # conv.stride = (2, 2) on a view:  _view_own = {"stride": (2, 2)}, and the view's class becomes a subclass whose `stride`
    # property reads it there. The wide module's __dict__, which the view shares, stays as it is.
    view._view_own[name] = value
    module_class = type(view)
    if not isinstance(inspect.getattr_static(module_class, name, None), property):
        object.__setattr__(view, "__class__", _owning(module_class, name))


@contextmanager
def holding(module: nn.Module, **attributes: Any) -> Iterator[None]:
    """Attributes of a module, of a view or not, that hold inside; the view stays what `at` returns."""
    if not isinstance(module, Live):
        saved = {name: module.__dict__[name] for name in attributes}
        try:
            module.__dict__.update(attributes)
            yield
        finally:
            module.__dict__.update(saved)
        return
    module_class = type(module)
    before = {name: module._view_own[name] for name in attributes if name in module._view_own}
    try:
        for name, value in attributes.items():
            hold_(module, name, value)
        yield
    finally:
        for name in attributes:
            del module._view_own[name]
        module._view_own.update(before)
        object.__setattr__(module, "__class__", module_class)  # attributes of its own cost every read


@contextmanager
def unnoticed(view: nn.Module) -> Iterator[None]:
    """What is done to a view inside is undone inside, or meant for all who hold it: it stays what `at` returns."""
    if not isinstance(view, Live):
        yield
        return
    shared, changed = view._view_shared, view._view_shared.changed
    shared.changed = lambda shared: None
    try:
        yield
    finally:
        shared.changed = changed


@contextmanager
def instead(module: nn.Module, **tensors: Tensor | None) -> Iterator[None]:
    """Tensors that a module, of a view or not, has inside in place of its buffers of these names."""
    registry: Any = module._view_given if isinstance(module, Live) else buffers_of(module)
    before = {name: registry[name] for name in tensors if name in registry}
    try:
        registry.update(tensors)
        yield
    finally:
        for name in tensors:
            del registry[name]
        registry.update(before)


@contextmanager
def standing_for_tensors(module: nn.Module, names_by_id: dict[int, tuple[nn.Module, str]]) -> Iterator[None]:
    """Every tensor of a view is one object inside, and `names_by_id` says by its id which; for torch.fx, which knows tensors so."""
    views = [m for m in module.modules() if isinstance(m, Live)]
    keep: list[Tensor] = []  # ids stay theirs
    added: list[tuple[Any, str]] = []
    try:
        for view in views:
            for registry in TENSOR_REGISTRIES:
                for name in view._view_wide.__dict__[registry]:
                    t = taken(view, registry, name)
                    if t is None or name in view._view_given:
                        continue
                    t = t.detach()
                    keep.append(t)
                    names_by_id[id(t)] = (view, name)
                    view._view_given[name] = t
                    added.append((view, name))
        yield
    finally:
        for view, name in added:
            del view._view_given[name]
        names_by_id.clear()


_owning_classes: weakref.WeakValueDictionary[tuple[type, str], type] = weakref.WeakValueDictionary()


def _owning(module_class: type, name: str) -> type:
    """The same class, which reads `name` in what the view owns first."""
    known = _owning_classes.get((module_class, name))
    if known is None:

        def get(self: Any) -> Any:
            if name in self._view_own:
                return written_attribute(self, name)
            if name in self._view_wide.__dict__:
                return self._view_wide.__dict__[name]
            return getattr(super(owning_class, self), name)

        owning_class = type(module_class)(module_class.__name__, (module_class,), {"__slots__": (), "__module__": module_class.__module__, "__qualname__": module_class.__qualname__, name: property(get)})  # fmt: skip
        _owning_classes[module_class, name] = known = owning_class
    return known


def is_running(view: Any) -> bool:
    """Whether a module of this view is being called, so that what is assigned is assigned by the model's own code."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code in CALLS:
            module = frame.f_locals.get("self")
            if isinstance(module, Live) and module._view_shared is view._view_shared:
                return True
        frame = frame.f_back
    return False


def touched_(view: Any) -> None:
    """A view that a user changes leaves the cache of `at`; what the model's own forward assigns changes nothing."""
    if not torch.compiler.is_compiling() and not is_running(view):
        view._view_shared.changed(view._view_shared)
