"""Attributes of the wide network as they were when it was made elastic: what came later may be state of one width."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Mapping

import torch
from torch import nn

from anywidth.compat.module_state import BUFFERS, REGISTRIES, STANDARD_ATTRIBUTES
from anywidth.tracing.opaque_modules import open_modules
from anywidth.views.attributes import NOTHING, Kept
from anywidth.views.mapping import reaches

_NEVER_MAPPED = (bool, int, float, str, bytes, torch.dtype, torch.device)


Baseline = Mapping[str, tuple[type, Mapping[str, Kept]]]
"""Path of a module -> its class and its attributes that may reach others, as they were when the network was made elastic."""


def baseline(model: nn.Module) -> Baseline:
    """The attributes of all modules, as they are now."""
    return {path: (type(m), attributes_now(m)) for path, m in open_modules(model).items()}


def attributes_now(m: nn.Module) -> dict[str, Kept]:
    """Attributes of a module that may reach others: what does now, and in classes that are not torch's what may one day."""
    state = vars(m)
    foreign = not type(m).__module__.startswith("torch.")
    assigned = assigned_names(type(m)) if foreign else set()
    attributes = {
        k: Kept.of(v, runtime=k in assigned)
        for k, v in state.items()
        if k not in STANDARD_ATTRIBUTES and ((foreign and not isinstance(v, _NEVER_MAPPED)) or reaches(v))
    }
    lazy = [k for k, t in state[BUFFERS].items() if t is None and k in assigned]
    attributes.update({k: Kept.of(None, runtime=True) for k in lazy})
    for name in assigned:
        if name not in STANDARD_ATTRIBUTES and name not in attributes and not _in_tree(m, name):
            attributes[name] = Kept.of(state[name], runtime=True) if name in state else NOTHING
    return attributes


def _in_tree(m: nn.Module, name: str) -> bool:
    return any(name in m.__dict__[registry] for registry in REGISTRIES)


@functools.cache
def _assigned_in(code: types.CodeType) -> frozenset[str]:
    return frozenset(str(i.argval) for i in dis.get_instructions(code) if i.opname == "STORE_ATTR")


def assigned_names(module_class: type) -> set[str]:
    """Names of attributes that a class's methods assign after construction; properties and slots are not among them."""
    names: set[str] = set()
    for base in module_class.__mro__:
        if base is nn.Module or base.__module__.startswith("torch."):
            continue
        for name, function in vars(base).items():
            if name != "__init__" and isinstance(function, types.FunctionType):
                names |= _assigned_in(function.__code__)
    return {n for n in names if not hasattr(inspect.getattr_static(module_class, n, None), "__set__")}
