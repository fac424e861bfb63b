"""Attributes of a view: the wide module's, with what reaches modules or tensors mapped into the view."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.compat.module_state import STANDARD_ATTRIBUTES
from anywidth.compat.reparametrised import recomputed_tensors
from anywidth.views.base import MISSING, Live, written_attribute
from anywidth.views.hooks import ViewHooks
from anywidth.views.mapping import mapped, reaches

_SCALARS = (bool, int, float, str, bytes, complex, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Kept:
    """An attribute as it was when the network was made elastic.

    Attributes:
        value: of the attribute.
        holds_tensors: whether there were tensors in it.
        inert: whether it is immutable and reaches nothing.
        runtime: whether methods of the class assign it. Tensors that are there now but were not then are state of the wide network
            (features, caches, masks of its size), and do not cross to other widths.
    """

    value: Any
    holds_tensors: bool
    inert: bool
    runtime: bool

    @staticmethod
    def of(value: Any, *, runtime: bool) -> Kept:
        inert = not reaches(value) and not _mutable(value)
        return Kept(value.copy() if type(value) is dict else value, holds_tensors(value), inert, runtime)


def _mutable(value: Any) -> bool:
    return isinstance(value, list | dict | set) or (isinstance(value, tuple) and any(map(_mutable, value)))


NOTHING = Kept(MISSING, False, False, True)


def attribute_property(name: str) -> property:
    """An attribute that may reach modules or tensors of the wide network, mapped when it is read."""

    def get(self: Any) -> Any:
        if name in self._view_own:
            return written_attribute(self, name)
        value = self._view_wide.__dict__.get(name, MISSING)
        if type(value) in _SCALARS:
            return value
        if torch.compiler.is_compiling():
            if name in self._view_memo:
                return self._view_memo[name][1]
        else:
            kept = self._view_kept.get(name, NOTHING)
            if kept.inert and value is kept.value:
                return value
        if value is MISSING:
            return _of_class(self, name)
        try:
            return _mapped_attribute(self, name)
        except AttributeError:
            return _of_class(self, name)

    return property(get)


def _of_class(view: Any, name: str) -> Any:
    """An attribute of the model's class."""
    static = inspect.getattr_static(view._view_kind, name, MISSING)
    if static is MISSING:
        raise AttributeError(f"'{type(view).__name__}' object has no attribute '{name}'")
    return static.__get__(view, type(view)) if hasattr(static, "__get__") else static


def visible(view: Any, name: str) -> Any:
    """The wide module's attribute as far as other widths may see it, not mapped yet.

    Raises:
        AttributeError: there is none, or it is runtime state of the wide network.
    """
    # A model may store tensors while it runs: `self.cache[size] = mask`, `self.features = x`. They are of the width that ran.
    # What was there when the network was made elastic is a setting and is seen by all widths; what came later and is no
    # parameter or buffer is not.
    value = view._view_wide.__dict__.get(name, MISSING)
    kept = view._view_kept.get(name, NOTHING)
    registered = view._view_shared.registered
    if isinstance(value, Tensor) and not registered(value):
        compute = recomputed_tensors(view._view_wide).get(name)
        if compute is not None:  # weight_norm, masks of pruning: of the narrow tensors
            return compute(view)
    if value is not MISSING and not kept.holds_tensors:
        if type(value) is dict:  # a cache: what it holds is of another width
            unknown = [k for k, v in value.items() if _unregistered(v, registered)]
            value = {k: v for k, v in value.items() if k not in unknown} if unknown else value
        elif (
            type(value) is list and type(kept.value) is list
        ):  # a list stays that list, but for tensors of another width
            value = (
                [v for v in value if not _unregistered(v, registered)]
                if _unregistered(value, registered)
                else value
            )
        elif kept.runtime and _unregistered(value, registered):
            value = kept.value
    if value is MISSING:
        raise AttributeError(f"'{type(view).__name__}' object has no attribute '{name}'")
    return value


def _mapped_attribute(view: Any, name: str) -> Any:
    value, lookup = visible(view, name), view._view_shared.view_of
    if not isinstance(value, (list, dict, tuple)):
        if name not in view._view_memo or view._view_memo[name][0] is not value:
            copy = mapped(value, lookup)
            if copy is value or isinstance(
                copy, (types.MethodType, nn.Module, Tensor, partial, types.FunctionType)
            ):
                return copy  # kept, a method or a function would keep the view alive
            view._view_memo[name] = (value, copy)
        return view._view_memo[name][1]
    if any(isinstance(v, Tensor) and view._view_shared.registered(v) for v in _leaves(value)):
        return mapped(value, lookup)  # registered tensors are taken anew at every use
    content = _content(value)
    if name not in view._view_memo or view._view_memo[name][0] != content:
        copy = mapped(value, lookup)
        if type(value) is dict and copy is value:
            copy = value.copy()
        view._view_memo[name] = (content, copy)
    return view._view_memo[name][1]


def prepare_(view: Any, *, methods: bool) -> None:
    """Map attributes now, for graphs: compilers take what is mapped already.

    Args:
        methods: also what is no container. It leads back to the view, which then waits for the garbage collector.
    """
    for name, kept in view._view_kept.items():
        value = view._view_wide.__dict__.get(name, MISSING)
        if value is MISSING or type(value) in _SCALARS:
            continue
        inert = kept.inert and value is kept.value
        if not (methods or inert or isinstance(value, (list, dict, tuple))):
            continue
        known = view._view_memo.get(name)
        if known is None or known[0] is not value:
            try:
                copy = value if inert else _mapped_attribute(view, name)
            except AttributeError:
                continue
            if name not in view._view_memo or known is not None:
                view._view_memo.setdefault(name, (value, copy))


def refreshed_(view: Any) -> None:
    """Look again for attributes of the wide module that reach others: a tool added some."""
    new = {
        k
        for k, v in view.__dict__.items()
        if k not in STANDARD_ATTRIBUTES
        and reaches(v)
        and not isinstance(inspect.getattr_static(type(view), k, None), property)
    }
    if new:
        module_class: Any = type(view)
        namespace = {
            "__slots__": (),
            "__module__": module_class.__module__,
            "__qualname__": module_class.__qualname__,
            **{name: attribute_property(name) for name in new},
        }
        view._view_kept = {
            **view._view_kept,
            **{name: Kept.of(view.__dict__[name], runtime=False) for name in new},
        }
        object.__setattr__(
            view, "__class__", type(module_class)(module_class.__name__, (module_class,), namespace)
        )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for v in value:
            yield from _leaves(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from _leaves(v)
    else:
        yield value


def holds_tensors(value: Any) -> bool:
    """Whether a value is a tensor, or a container with one."""
    return any(isinstance(v, Tensor) for v in _leaves(value))


def _unregistered(value: Any, registered: Callable[[Tensor], bool]) -> bool:
    """Whether a value holds tensors that are no parameters or buffers."""
    return any(isinstance(v, Tensor) and not registered(v) for v in _leaves(value))


def _content(value: Any) -> Hashable:
    """What a container holds, by identity; it changes when the content does."""
    if isinstance(value, list | tuple):
        return tuple(map(_content, value))
    if isinstance(value, dict):
        return tuple((k, _content(v)) for k, v in value.items())
    return id(value)


def attributes_of(view: Any) -> dict[str, Any]:
    """The attributes of a view's module: the wide module's, narrow integers, and what was written to it; not mapped."""
    state = dict(view.__dict__)
    for name in view._view_kept:
        try:
            state[name] = visible(view, name)
        except AttributeError:
            state.pop(name, None)
    kinds = [c for c in type(view).__mro__ if issubclass(c, Live) and c is not Live]
    state.update({n: getattr(view, n) for c in kinds for n in vars(c).get("__slots__", ())})
    for name, value in view._view_own.items():
        if value is MISSING:
            state.pop(name, None)
        elif name not in view._view_children:
            state[name] = value.flat() if isinstance(value, ViewHooks) else value
    return state
