"""Stand-alone copies of views: modules of the model's own classes that own compact tensors."""

from __future__ import annotations

import copy
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from anywidth.compat.module_state import HOOK_REGISTRIES, MODULES, REGISTRIES, TENSOR_REGISTRIES
from anywidth.compat.reparametrised import (
    forget_cached_weights_,
    own_parametrized_class_,
    recomputed_tensors,
)
from anywidth.compat.tensors import of_class
from anywidth.tracing.opaque_modules import open_modules
from anywidth.views.attributes import attributes_of
from anywidth.views.base import STATISTICS, Live
from anywidth.views.mapping import holds_function, mapped
from anywidth.views.tensors import taken


def standalone(view: Any, memo: dict | None = None) -> nn.Module:
    """A copy of a view that owns its tensors and knows nothing of this package."""
    # Two steps: modules of the model's classes are filled with narrow tensors and mapped attributes (`_Static`); then
    # copy.deepcopy gives them lists, dicts and objects of their own, as it would for a network built narrow by hand.
    memo = {} if memo is None else memo
    with torch.inference_mode(False), torch.no_grad():
        static = _Static()
        bare = static.module(view)
        static.connect()
        memo.update({id(t): t for t in static.tensors})  # they are copies already
        memo.update(without_graphs(bare))
    module_class = type(bare)
    if hasattr(module_class, "__deepcopy__") or module_class.__getstate__ is not nn.Module.__getstate__:
        copied_root = copy.deepcopy(bare, memo)
    else:
        copied_root = module_class.__new__(module_class)
        memo[id(bare)] = copied_root  # bound methods of the root lead here, not to another copy of it
        copied_root.__dict__.update(copy.deepcopy(bare.__getstate__(), memo))
    memo[id(view)] = copied_root
    _complete(bare, copied_root, memo)
    forget_cached_weights_(copied_root.modules())
    for module in copied_root.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            own_parametrized_class_(module)
            with torch.no_grad():
                module.__dict__.update({n: of(module) for n, of in recomputed_tensors(module).items()})
    _rebind_functions(bare, copied_root)
    return copied_root


def without_graphs(model: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`, which refuses tensors that have a graph: attributes that a hook computed (`weight_norm`)."""
    computed = [
        t
        for m in open_modules(model).values()
        for v in vars(m).values()
        for t in (v if isinstance(v, list) else [v])
        if isinstance(t, Tensor) and not t.is_leaf
    ]
    return {id(t): t.detach().clone() for t in computed}


def _complete(bare: nn.Module, copied_root: nn.Module, memo: dict) -> None:
    """What graph modules leave out of their copies: which hooks take keywords, attributes that no node reads, the mode."""
    pairs = list(zip(bare.modules(), copied_root.modules(), strict=True))
    for b, c in pairs:
        if isinstance(b, GraphModule):
            for key, value in b.__dict__.items():
                # Those of an exported graph, which raise; torch's own copies have `nn.Module`'s, which set a flag.
                method = isinstance(value, types.MethodType) and value.__self__ is b
                if not method and (key in HOOK_REGISTRIES or key not in c.__dict__):
                    c.__dict__[key] = copy.deepcopy(value, memo)
    for b, c in pairs:
        if b.training != c.training:
            c.train(b.training)  # some graph modules have a graph for each mode
    for b, c in pairs:
        if b.training != c.training:
            c.training = b.training


class _Static:
    """The same modules with dicts of their own and narrow tensors in them."""

    def __init__(self) -> None:
        self.new: dict[int, Any] = {}  # id of a wide module or tensor, or of a view -> what stands for it
        self.bare: list[nn.Module] = []
        self.tensors: list[Tensor] = []

    def module(self, view: Any) -> nn.Module:
        if id(view) in self.new:
            return self.new[id(view)]
        if not isinstance(view, Live):
            return view
        wide_module = view._view_wide
        module_class = type(wide_module)
        bare = self.new[id(wide_module)] = self.new[id(view)] = module_class.__new__(module_class)
        self.bare.append(bare)
        bare.__dict__.update(attributes_of(view))
        for name in recomputed_tensors(wide_module):
            bare.__dict__.pop(name, None)  # computed in the copy, from its own tensors
        for registry in TENSOR_REGISTRIES:
            tensors = {name: self._tensor(view, registry, name) for name in wide_module.__dict__[registry]}
            bare.__dict__[registry] = tensors
        bare.__dict__[MODULES] = {
            k: None if c is None else self.module(c) for k, c in view._view_children.items()
        }
        return bare

    def _tensor(self, view: Any, registry: str, name: str) -> Tensor | None:
        wide_module = view._view_wide.__dict__[registry][name]
        differs = view._view_norm is not None or name in view._view_given
        if wide_module is None and not differs:
            return None
        if id(wide_module) in self.new and not differs:
            return self.new[id(wide_module)]
        norm, active = view._view_norm, view._view_slices.get(name)
        if norm is not None and name in STATISTICS and wide_module is not None and not norm.ready():
            t = (
                wide_module if active is None else active.take(wide_module)
            )  # never measured: as `extract` has it
        else:
            t = taken(view, registry, name)
        if t is None:
            return None
        copied = t.detach().clone(memory_format=torch.preserve_format)
        if isinstance(wide_module, nn.Parameter):
            copied = of_class(copied, type(wide_module), wide_module.requires_grad)
        if wide_module is not None:
            self.new[id(wide_module)] = copied
        self.tensors.append(copied)
        return copied

    def connect(self) -> None:
        """Attributes and hooks that reach modules reach those of the copy."""

        def lookup(value: Any) -> Any:
            return self.new.get(id(value))

        for bare in self.bare:
            for key, value in bare.__dict__.items():
                if key not in REGISTRIES:
                    bare.__dict__[key] = mapped(value, lookup)


def _rebind_functions(bare: nn.Module, copied_root: nn.Module) -> None:
    """Closures over modules of the view become closures over those of its copy."""
    pairs = list(zip(bare.modules(), copied_root.modules(), strict=True))
    copies = {id(b): c for b, c in pairs}
    for b, c in pairs:
        for key, value in vars(b).items():
            if key not in REGISTRIES and holds_function(value):
                vars(c)[key] = mapped(value, lambda v: copies.get(id(v)))
