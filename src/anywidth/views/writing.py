"""Writing to the tensors of a view: through to the wide network, or refused."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor

from anywidth.compat.module_state import BUFFERS, PARAMETERS
from anywidth.errors import ViewError
from anywidth.views.base import dotted, own_of_width, refuse
from anywidth.views.parameters import ViewParameter
from anywidth.views.temporary_tensors import is_running, touched_
from anywidth.views.tensors import read_tensor


class TensorMapping(MutableMapping):
    """The parameters or the buffers of a view's module. What is put here stays here (`torch.func.functional_call`)."""

    def __init__(self, view: Any, registry: str) -> None:
        self.view, self.registry = view, registry

    def _names(self) -> dict[str, Any]:
        return self.view._view_wide.__dict__[self.registry]

    def __getitem__(self, name: str) -> Any:
        if name in self._names():
            return read_tensor(self.view, self.registry, name)
        if self.registry == BUFFERS and name in self.view._view_given:
            return self.view._view_given[name]
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        view, tensor = self.view, self._names().get(name)
        shared = view._view_shared
        handed_back = value is not None and (
            value is shared.exported.get(id(tensor))
            or (isinstance(value, ViewParameter) and value._wide is tensor)
        )
        of_width = own_of_width(view, name)
        if handed_back or (of_width is not None and value is of_width) or value is tensor:
            view._view_given.pop(name, None)
            return
        if name not in self._names():
            refuse(view, f"register '{name}' on")
        view._view_given[name] = value

    def __delitem__(self, name: str) -> None:
        refuse(self.view, f"delete '{name}' of")

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names()))

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()


def write_parameter(view: Any, name: str, value: Any) -> None:
    """What is assigned to a parameter of a view is written to the wide network."""
    wide_tensor = view._view_wide.__dict__[PARAMETERS].get(name)
    if not isinstance(value, Tensor) or wide_tensor is None:
        refuse(view, f"register or remove the parameter '{name}' of")
    target = read_tensor(view, PARAMETERS, name)
    if value is target:
        return
    if value.shape != target.shape:
        raise ViewError(
            f"'{dotted(view, name)}' is {tuple(target.shape)} at this width; {tuple(value.shape)} cannot be written to it."
        )
    with torch.no_grad():
        target.copy_(value)


def write_buffer(view: Any, name: str, value: Any) -> None:
    """A buffer that the model's own code replaces stays in the view; what a user assigns is written to where it is kept."""
    current = read_tensor(view, BUFFERS, name)
    if value is current:
        return
    same = isinstance(value, Tensor) and isinstance(current, Tensor) and value.shape == current.shape
    if same and not is_running(view):
        with torch.no_grad():
            current.copy_(value)
        return
    view._view_given[name] = value
    touched_(view)
