"""Stand-alone copies of views: modules of the model's own classes that own compact tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.view.live import STATISTICS, Live, attributes_of, taken
from anywidth.view.mapping import MODULE_STATE, holds_function, mapped


def standalone(view: Any, memo: dict | None = None) -> nn.Module:
    """A copy of a view that owns its tensors and knows nothing of this package."""
    memo = {} if memo is None else memo
    with torch.inference_mode(False), torch.no_grad():
        static = _Static()
        bare = static.module(view)
        static.connect()
        memo.update({id(t): t for t in static.tensors})  # they are copies already
    kind = type(bare)
    if hasattr(kind, "__deepcopy__") or kind.__getstate__ is not nn.Module.__getstate__:
        made = copy.deepcopy(bare, memo)
    else:
        made = kind.__new__(kind)
        memo[id(bare)] = made  # bound methods of the root lead here, not to another copy of it
        made.__dict__.update(copy.deepcopy(bare.__getstate__(), memo))
    memo[id(view)] = made
    _rebind_functions(bare, made)
    return made


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
        wide = view._view_wide
        kind = type(wide)
        bare = self.new[id(wide)] = self.new[id(view)] = kind.__new__(kind)
        self.bare.append(bare)
        bare.__dict__.update(attributes_of(view))
        for place in ("_parameters", "_buffers"):
            tensors = {name: self._tensor(view, place, name) for name in wide.__dict__[place]}
            bare.__dict__[place] = tensors
        bare.__dict__["_modules"] = {
            k: None if c is None else self.module(c) for k, c in view._view_children.items()
        }
        return bare

    def _tensor(self, view: Any, place: str, name: str) -> Tensor | None:
        wide = view._view_wide.__dict__[place][name]
        own = view._view_norm is not None or name in view._view_given
        if wide is None and not own:
            return None
        if id(wide) in self.new and not own:
            return self.new[id(wide)]
        norm, part = view._view_norm, view._view_slices.get(name)
        if norm is not None and name in STATISTICS and wide is not None and not norm.ready():
            t = wide if part is None else part.take(wide)  # never measured: as `extract` has it
        else:
            t = taken(view, place, name)
        if t is None:
            return None
        copied = t.detach().clone(memory_format=torch.preserve_format)
        if isinstance(wide, nn.Parameter):
            copied = torch.Tensor._make_subclass(type(wide), copied, wide.requires_grad)
        if wide is not None:
            self.new[id(wide)] = copied
        self.tensors.append(copied)
        return copied

    def connect(self) -> None:
        """Attributes and hooks that reach modules reach those of the copy."""

        def lookup(value: Any) -> Any:
            return self.new.get(id(value))

        for bare in self.bare:
            for key, value in bare.__dict__.items():
                if key not in MODULE_STATE:
                    bare.__dict__[key] = mapped(value, lookup)


def _rebind_functions(bare: nn.Module, made: nn.Module) -> None:
    """Closures over modules of the view become closures over those of its copy."""
    pairs = list(zip(bare.modules(), made.modules(), strict=True))
    copies = {id(b): c for b, c in pairs}
    for b, c in pairs:
        for key, value in vars(b).items():
            if key not in MODULE_STATE and holds_function(value):
                vars(c)[key] = mapped(value, lambda v: copies.get(id(v)))
