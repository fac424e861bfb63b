"""Values that reach modules or tensors of one network, mapped to another network of the same structure.

A model may hold its parts behind PyTorch's back: in lists and dicts, bound methods, partials, closures. Whatever holds no
such part is returned as it is, the same object: a list that a hook appends to stays that list.
"""

from __future__ import annotations

import types
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

_UNCHANGED = object()
Lookup = Callable[[Any], Any]
"""A module or tensor -> what stands for it in the other network, None for one that is not of the first network."""


def reaches(value: Any) -> bool:
    """Whether a value may lead to modules or tensors."""
    if isinstance(value, nn.Module | types.MethodType | partial | Tensor):
        return True
    if isinstance(value, types.FunctionType):
        return bool(value.__closure__ or value.__defaults__ or value.__kwdefaults__)
    if isinstance(value, list | tuple | set | frozenset | deque):
        return any(reaches(v) for v in value)
    if isinstance(value, dict):
        return any(reaches(v) for v in value.values())
    return isinstance(value, weakref.ref) or leads_on(value, depth=3)


def leads_on(value: Any, depth: int) -> bool:
    """Whether an object of a class of the user's leads to modules or tensors by its own attributes."""
    if depth == 0 or not is_object(value):
        return False
    for v in vars(value).values():
        if isinstance(v, nn.Module | Tensor | types.MethodType) or leads_on(v, depth - 1):
            return True
        if isinstance(v, types.FunctionType) and v.__closure__:
            return True
        if isinstance(v, list | tuple | set | dict):
            items = v.values() if isinstance(v, dict) else v
            if any(isinstance(i, nn.Module | Tensor) or leads_on(i, depth - 1) for i in items):
                return True
    return False


def is_object(value: Any) -> bool:
    """Whether a value is an instance of an ordinary class, with attributes of its own, of the user's or of a tool's."""
    value_class = type(value)
    return (
        hasattr(value, "__dict__")
        and not isinstance(
            value, nn.Module | Tensor | type | types.ModuleType | types.FunctionType | partial | weakref.ref
        )
        and not value_class.__module__.startswith(
            ("torch.", "builtins", "functools", "numpy", "_", "transformers.configuration")
        )
    )


def mapped(value: Any, lookup: Lookup) -> Any:
    """`value` with the modules and tensors of one network replaced by those of the other."""
    result = _mapped(value, lookup, frozenset())
    return value if result is _UNCHANGED else result


def _mapped(value: Any, lookup: Lookup, outer: frozenset[int]) -> Any:
    """The replacement, or `_UNCHANGED` if nothing inside is of the network."""
    # partial(block.forward_with, norms=[bn1, bn2]) -> partial(view_of_block.forward_with, norms=[view_of_bn1, view_of_bn2]);
    # a list of numbers stays the very same list, so that a hook that appends to it is still seen by its owner.
    if id(value) in outer:  # a cycle
        return _UNCHANGED
    inside = outer | {id(value)}
    if isinstance(value, nn.Module | Tensor):
        counterpart = lookup(value)
        return _UNCHANGED if counterpart is None else counterpart
    if isinstance(value, types.MethodType):
        owner = _mapped(value.__self__, lookup, inside)
        function = _mapped(value.__func__, lookup, inside)
        if owner is _UNCHANGED and function is _UNCHANGED:
            return _UNCHANGED
        return types.MethodType(
            value.__func__ if function is _UNCHANGED else function,
            value.__self__ if owner is _UNCHANGED else owner,
        )
    if isinstance(value, types.FunctionType):
        return _mapped_function(value, lookup, inside)
    if isinstance(value, partial):
        function, arguments = (
            _mapped(value.func, lookup, inside),
            _mapped((value.args, value.keywords), lookup, inside),
        )
        if function is _UNCHANGED and arguments is _UNCHANGED:
            return _UNCHANGED
        args, keywords = (value.args, value.keywords) if arguments is _UNCHANGED else arguments
        return type(value)(value.func if function is _UNCHANGED else function, *args, **keywords)
    if isinstance(value, list | tuple | set | frozenset | deque):
        return _mapped_items(value, lookup, inside)
    if isinstance(value, weakref.ref):
        counterpart = lookup(value()) if isinstance(value(), nn.Module | Tensor) else None
        return _UNCHANGED if counterpart is None else weakref.ref(counterpart)
    if isinstance(value, dict):
        items = {k: _mapped(v, lookup, inside) for k, v in value.items()}
        if all(v is _UNCHANGED for v in items.values()):
            return _UNCHANGED
        return _like(value, [(k, value[k] if v is _UNCHANGED else v) for k, v in items.items()])
    if leads_on(value, depth=3):
        state = _mapped(vars(value), lookup, inside)
        if state is not _UNCHANGED:
            value_class: Any = type(value)
            counterpart = value_class.__new__(value_class)
            counterpart.__dict__.update(state)
            return counterpart
    return _UNCHANGED


def _mapped_items(value: Any, lookup: Lookup, inside: frozenset[int]) -> Any:
    items = [_mapped(v, lookup, inside) for v in value]
    if all(v is _UNCHANGED for v in items):
        return _UNCHANGED
    items = [old if new is _UNCHANGED else new for old, new in zip(value, items, strict=True)]
    named = isinstance(value, tuple) and hasattr(value, "_fields")
    return type(value)(*items) if named else type(value)(items)


def _like(value: dict, items: list[tuple[Any, Any]]) -> dict:
    copied = type(value)() if type(value) is not dict else {}
    copied.update(items)
    return copied


def _mapped_function(function: types.FunctionType, lookup: Lookup, inside: frozenset[int]) -> Any:
    """A function whose closure or defaults reach modules of the network, rebuilt on those of the other."""
    cells = function.__closure__ or ()
    try:
        contents = [cell.cell_contents for cell in cells]
    except ValueError:  # a cell that is not filled yet
        return _UNCHANGED
    new = [_mapped(c, lookup, inside) for c in contents]
    defaults = _mapped((function.__defaults__, function.__kwdefaults__), lookup, inside)
    if defaults is _UNCHANGED and all(c is _UNCHANGED for c in new):
        return _UNCHANGED
    closure = tuple(
        cell if c is _UNCHANGED else types.CellType(c) for cell, c in zip(cells, new, strict=True)
    )
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    if defaults is not _UNCHANGED:
        copy.__defaults__, copy.__kwdefaults__ = defaults
    copy.__dict__.update(function.__dict__)
    return copy


def holds_function(value: Any) -> bool:
    """Whether a value holds what `copy.deepcopy` does not copy: a function with a closure or defaults, or a weak reference."""
    if isinstance(value, weakref.ref):
        return True
    if isinstance(value, types.FunctionType):
        return bool(value.__closure__ or value.__defaults__ or value.__kwdefaults__)
    if isinstance(value, partial):
        return holds_function(value.func)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(holds_function(v) for v in items)
