"""What the modules of one view have in common."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from anywidth.compat.module_state import PARAMETERS
from anywidth.errors import StaleViewError
from anywidth.views.base import Live
from anywidth.views.packed_copies import PackStore
from anywidth.views.tensors import taken


class Shared:
    """What the modules of one view have in common.

    Attributes:
        number: of this view among all views of the process.
        modules: id of a wide module -> its view.
        changed: called when a user changes the view.
        packs: copies for inference; None for none.
        configs: id of a config of the wide network -> the narrow one.
        places: id of a wide tensor -> where it was when the view was made.
    """

    def __init__(
        self,
        packs: PackStore | None,
        changed: Callable[[Any], None],
        places: dict[int, tuple[nn.Module, str, str]],
    ) -> None:
        self.packs, self.changed, self.places = packs, changed, places
        self.number = id(self) if packs is None else packs.next_view()
        self.modules: dict[int, weakref.ref[Live]] = {}
        self.configs: dict[int, Any] = {}
        self.handed: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.exported: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        if packs is not None:
            weakref.finalize(self, packs.drop, self.number)

    def view_of(self, value: Any) -> Any:
        """What stands for a module or a registered tensor of the wide network in this view; None for others."""
        if isinstance(value, nn.Module):
            reference = self.modules.get(id(value))
            view = None if reference is None else reference()
            if reference is not None and view is None:
                raise StaleViewError(
                    f"a part of a view of width-elastic {type(value).__name__} was kept longer than the view, and needs its other "
                    "parts. Keep the view that net.at(width) gave."
                )
            return view
        place = self._registered_at(value)
        if place is None:
            return None
        owner, registry, name = place
        view = self.view_of(owner)
        return None if view is None else taken(view, registry, name)

    def registered(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the wide network."""
        return self._registered_at(tensor) is not None

    def _registered_at(self, tensor: Tensor) -> tuple[nn.Module, str, str] | None:
        known = self.places.get(id(tensor))
        if known is not None and known[0].__dict__[known[1]].get(known[2]) is tensor:
            return known
        if isinstance(tensor, nn.Parameter):  # assigned since
            for reference in self.modules.values():
                view = reference()
                wide_module = None if view is None else view._view_wide
                for name, p in () if wide_module is None else wide_module.__dict__[PARAMETERS].items():
                    if p is tensor:
                        assert wide_module is not None
                        return wide_module, PARAMETERS, name
        return None
