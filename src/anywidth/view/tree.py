"""Copying a module tree shallowly: attributes that point into it must point into the copy."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from anywidth.width import Width

TREE = ("_modules", "_parameters", "_buffers")
_CALLED = ("_forward_hooks", "_forward_pre_hooks")


def shell(m: nn.Module) -> nn.Module:
    """A module with the same attributes, whose `__init__` did not run."""
    view = type(m).__new__(type(m))
    view.__dict__.update(m.__dict__)
    return view


def pointing(m: nn.Module) -> list[str]:
    """Plain attributes and hooks through which a module may reach others, or their tensors, behind PyTorch's back."""
    return [
        k
        for k, v in vars(m).items()
        if k not in TREE
        and (k in _CALLED or "hook" not in k)
        and ((type(v) is dict and not k.startswith("_")) or _points(v))  # an empty one may be a cache
    ]


def _points(value: Any) -> bool:
    if isinstance(value, nn.Module | types.MethodType | partial | Tensor):
        return True
    if isinstance(value, types.FunctionType):
        return value.__closure__ is not None
    if isinstance(value, list | tuple):
        return any(_points(v) for v in value)
    return isinstance(value, dict) and any(_points(v) for v in value.values())


def with_functions(m: nn.Module) -> list[str]:
    """Attributes and hooks that hold functions with closures, which `copy.deepcopy` does not copy."""
    return [k for k in pointing(m) if _holds_function(vars(m)[k])]


def _holds_function(value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        return value.__closure__ is not None
    if isinstance(value, partial):
        return _holds_function(value.func)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(_holds_function(v) for v in items)


def remapped(
    value: Any, new: Mapping[int, Any], *, top: bool = True, seen: frozenset[int] = frozenset()
) -> Any:
    """`value` with modules and registered tensors replaced; a module's own dict forgets other tensors (it is a cache)."""
    if id(value) in seen:
        return value
    inside = seen | {id(value)}
    if isinstance(value, nn.Module | Tensor):
        return new.get(id(value), value)
    if isinstance(value, types.MethodType):
        return (
            types.MethodType(value.__func__, new[id(value.__self__)]) if id(value.__self__) in new else value
        )
    if isinstance(value, types.FunctionType):
        return _closed(value, new, inside)
    if isinstance(value, partial):
        args = [remapped(a, new, top=False, seen=inside) for a in value.args]
        named = {k: remapped(v, new, top=False, seen=inside) for k, v in value.keywords.items()}
        return partial(remapped(value.func, new, top=False, seen=inside), *args, **named)
    if type(value) in (list, tuple):
        return type(value)([remapped(v, new, top=False, seen=inside) for v in value])
    if isinstance(value, dict) and type(value) is not dict:
        made = type(value)()
        made.update({k: remapped(v, new, top=False, seen=inside) for k, v in value.items()})
        return made
    if type(value) is dict:
        kept = {k: v for k, v in value.items() if not (top and isinstance(v, Tensor) and id(v) not in new)}
        return {k: remapped(v, new, top=False, seen=inside) for k, v in kept.items()}
    return value


def _closed(function: types.FunctionType, new: Mapping[int, Any], seen: frozenset[int]) -> types.FunctionType:
    """A function whose closure holds modules of the tree, rebuilt on those of the copy."""
    cells = function.__closure__ or ()
    contents = []
    for cell in cells:
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # a cell that is not filled yet
            return function
    moved = [remapped(c, new, top=False, seen=seen) for c in contents]
    if all(a is b for a, b in zip(moved, contents, strict=True)):
        return function
    closure = tuple(types.CellType(c) for c in moved)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def set_attribute(state: dict[str, Any], rule: Any, width: Width) -> None:
    value = rule.size.at(width)
    if rule.index is None:
        state[rule.name] = value
    else:
        old = list(state[rule.name])
        old[rule.index] = value
        state[rule.name] = type(state[rule.name])(old)


def tidy(view: nn.Module) -> None:
    """Make the sizes that standard modules state about themselves true."""
    weight = view.__dict__["_parameters"].get("weight")
    if weight is None:
        return
    state, shape = view.__dict__, weight.shape
    if isinstance(view, nn.modules.conv._ConvNd):
        first, second = shape[0], shape[1]
        state["out_channels"], state["in_channels"] = (
            (second * view.groups, first) if view.transposed else (first, second * view.groups)
        )
    elif isinstance(view, nn.Linear):
        state["out_features"], state["in_features"] = shape[0], shape[1]
    elif isinstance(view, nn.modules.batchnorm._NormBase):
        state["num_features"] = shape[0]
    elif isinstance(view, nn.GroupNorm):
        state["num_channels"] = shape[0]
    elif isinstance(view, nn.Embedding):
        state["num_embeddings"], state["embedding_dim"] = shape[0], shape[1]
