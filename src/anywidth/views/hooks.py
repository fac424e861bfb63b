"""Hooks of a view: the wide module's current ones first, then its own."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

from anywidth.compat.module_state import FORWARD_HOOKS, FORWARD_PRE_HOOKS, HOOK_REGISTRIES
from anywidth.views.mapping import mapped
from anywidth.views.temporary_tensors import hold_, touched_


def hooks_property(name: str) -> property:
    """The wide module's hooks, with methods and closures over modules mapped into the view."""

    def get(self: Any) -> Any:
        hooks = self.__dict__[name]
        if not (hooks or self._view_own):
            return hooks
        own_hooks = self._view_own.get(name)
        return wide_hooks(self, name) if own_hooks is None else own_hooks

    return property(get)


class WideOnlyHook:
    """A hook that does nothing to a view: leaving it out spares every module the long way of a call with hooks."""

    __slots__ = ()


def wide_hooks(view: Any, name: str) -> Any:
    """Hooks of the wide module as they are now."""
    hooks = view.__dict__[name]
    if name not in (FORWARD_HOOKS, FORWARD_PRE_HOOKS):
        return hooks
    # What is compiled gets them all: its guards look into the registry itself.
    if not torch.compiler.is_compiling() and any(isinstance(h, WideOnlyHook) for h in hooks.values()):
        hooks = OrderedDict((k, hook) for k, hook in hooks.items() if not isinstance(hook, WideOnlyHook))
    return mapped(hooks, view._view_shared.view_of) if hooks else hooks


# wide.register_forward_hook(a); view.register_forward_hook(b); wide.register_forward_hook(c):  the view runs a, c, b.
class ViewHooks(OrderedDict):
    """Hooks of a view's module: the wide module's current ones first, then its own."""

    def __init__(self, view: Any, name: str) -> None:
        super().__init__()
        self._view, self._name = weakref.ref(view), name

    def _wide(self) -> dict:
        view = self._view()
        return {} if view is None else wide_hooks(view, self._name)

    def __len__(self) -> int:
        return len(self._wide()) + super().__len__()

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[Any]:
        yield from self._wide()
        yield from super().__iter__()

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._wide()

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if super().__contains__(key) else self._wide()[key]

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return [self[k] for k in self]

    def items(self) -> Any:
        return [(k, self[k]) for k in self]

    def flat(self) -> OrderedDict:
        """An ordinary dict with all of them."""
        return OrderedDict(self.items())


def own_hooks_(view: Any) -> None:
    """Give a module of a view hooks of its own, beside the wide module's."""
    for name in HOOK_REGISTRIES:
        if name not in view._view_own:
            hold_(view, name, ViewHooks(view, name))
    touched_(view)
