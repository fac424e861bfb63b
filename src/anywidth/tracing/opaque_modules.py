"""Modules that no trace sees into and no view can be made of: they run as they are, at every width.

    Linear(4, 12) -> scripted(12 -> 12) -> Linear(12, 16) -> Linear(16, 3)
                     reads 12, gives 12: the channels on both sides keep their number; the 16 are elastic as ever

Scripted and traced modules are programs of TorchScript; quantised ones hold packed weights. Neither has parameters that can be
cut where they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.compat.exported import is_shape_guard
from anywidth.compat.module_state import MODULES
from anywidth.compat.tracing import unseen
from anywidth.tracing.model_outputs import tensors_in
from anywidth.tracing.trace_state import Walk

_QUANTISED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.sparse.quantized.")
_FLOAT_AMONG_THEM = ("FloatFunctional", "FXFloatFunctional")


def kind_of_opaque(module: nn.Module) -> str | None:
    """What makes a module opaque, in words; None for an ordinary one."""
    return kind_of_class(type(module))


def kind_of_class(module_class: type[nn.Module]) -> str | None:
    """As `kind_of_opaque`, for all modules of a class."""
    if issubclass(module_class, torch.jit.ScriptModule):
        return "scripted module"
    if is_shape_guard(module_class):
        return "check of the input's shape"
    quantised = module_class.__module__.startswith(_QUANTISED)
    return "quantised module" if quantised and module_class.__name__ not in _FLOAT_AMONG_THEM else None


def opaque_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> every opaque module that is not inside another one."""
    return _opaque_among(dict(model.named_modules()))


def _opaque_among(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    # By class, as asking each of a thousand modules takes longer than to list them.
    classes = set(map(type, modules.values()))
    opaque_classes = {c for c in classes if kind_of_class(c) is not None}
    opaque: dict[str, nn.Module] = {}
    for path, module in modules.items() if opaque_classes else ():
        if type(module) in opaque_classes and not any(map(path.startswith, _inside(opaque))):
            opaque[path] = module
    return opaque


def _inside(paths: dict[str, Any]) -> list[str]:
    return [f"{p}." if p else "" for p in paths]


def open_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> every module, but for opaque ones and what is in them; a module that is there twice has its first path."""
    modules = dict(model.named_modules())
    opaque = _opaque_among(modules)
    if not opaque:
        return modules
    inside = tuple(_inside(opaque))
    return {p: m for p, m in modules.items() if p not in opaque and not p.startswith(inside)}


class _Boundary(nn.Module):
    """Stands for an opaque module while the model is traced: what goes in and comes out is frozen."""

    def __init__(self, walk: Walk, path: str, module: nn.Module) -> None:
        super().__init__()
        self.walk, self.path = walk, path
        self.reason = f"{kind_of_opaque(module)} '{path}'"
        self.modules_behind = [module]  # in a list: no child of this one

    def __getattr__(self, name: str) -> Any:
        if name in ("walk", "path", "reason", "modules_behind") or name not in dir(self.modules_behind[0]):
            return super().__getattr__(name)
        return getattr(self.modules_behind[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        walk, outer = self.walk, self.walk.module
        walk.module, walk.operation = self.path, "the call"
        with unseen():
            for t in tensors_in((args, kwargs)):
                walk.freeze(walk.shadows(t), self.reason)
        out = self.modules_behind[0](*args, **kwargs)
        walk.module, walk.operation = self.path, "the output"
        with unseen():
            for t in tensors_in(out):
                if not walk.shadows(t):
                    walk.set(t, _labelled(walk, t))
                walk.freeze(walk.shadows(t), self.reason)
        walk.module = outer
        return out


def _labelled(walk: Walk, t: Tensor) -> list[Tensor]:
    """Labels for a tensor that came out with none, so that what follows it can name the reason."""
    shapes = [[n if d == dim else 1 for d in range(t.ndim)] for dim, n in enumerate(t.shape)]
    return [walk.ledger.fresh(n).reshape(shape) for n, shape in zip(t.shape, shapes, strict=True) if n > 1]


@contextmanager
def boundaries(walk: Walk, model: nn.Module) -> Iterator[None]:
    """Opaque modules freeze what goes in and out of them inside this context."""
    # By a stand-in in the parent's registry: scripted modules take no hooks.
    opaque = opaque_modules(model)
    replaced: list[tuple[dict[str, Any], str, nn.Module]] = []
    for path, module in opaque.items():
        boundary = _Boundary(walk, path, module)
        for parent in open_modules(model).values():
            children = parent.__dict__[MODULES]
            replaced += [(children, name, module) for name, child in children.items() if child is module]
            children.update({name: boundary for name, child in children.items() if child is module})
    try:
        yield
    finally:
        for children, name, module in replaced:
            children[name] = module


def freeze_opaque_(walk: Walk, model: nn.Module) -> None:
    """The parameters of opaque modules keep their size."""
    for path, module in opaque_modules(model).items():
        walk.module, walk.operation = path, "the weights"
        tensors = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
        for t in tensors:
            walk.freeze(walk.shadows(t), f"{kind_of_opaque(module)} '{path}'")
