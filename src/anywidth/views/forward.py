"""Calling a module of a view."""

from __future__ import annotations

from typing import Any

from anywidth.views.attributes import refreshed_
from anywidth.views.mapping import mapped


def forward_of(self: Any) -> Any:
    """The forward of the model's class, or what took its place on the wide module; bound to the view."""
    if self._view_compiled is not None:
        return self._view_compiled
    if "forward" in self._view_own:
        return self._view_own["forward"]
    if "forward" in self._view_wide.__dict__:
        return _patched_forward(self)
    return self._view_forward


class ForwardProperty(property):
    """Of a view's module, `forward_of`; of its class, the model's own function."""

    def __get__(self, instance: Any, owner: Any = None, /) -> Any:
        return owner._view_kind.forward if instance is None else super().__get__(instance, owner)


def _patched_forward(view: Any) -> Any:
    refreshed_(view)  # whoever replaces forward may keep the old one in an attribute of its own
    return mapped(view.__dict__["forward"], view._view_shared.view_of)
