"""Making views: everything that does not depend on the width is worked out once per network."""

from __future__ import annotations

import dis
import functools
import inspect
import types
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from anywidth.channels.space import AttributeRule, ChannelSpace
from anywidth.errors import TraceError
from anywidth.view.live import (
    NOTHING,
    STATISTICS,
    ForwardProperty,
    Kept,
    Live,
    NormAt,
    Shared,
    attribute_property,
    call,
    forward_of,
    hooks_property,
    lazy_property,
    norm_property,
    norm_train,
    norm_training,
    prepare_,
    tensor_property,
)
from anywidth.view.mapping import MODULE_STATE, reaches
from anywidth.view.packs import PackStore
from anywidth.view.slices import AxisPlan, Slice, cut_by
from anywidth.width import Width

_STANDARD = frozenset(vars(nn.Module())) | {"forward", "_compiled_call_impl"}
_NEVER_MAPPED = (bool, int, float, str, bytes, torch.dtype, torch.device)
Baseline = Mapping[str, tuple[type, Mapping[str, Kept]]]
"""Path of a module -> its class and its attributes that may reach others, as they were when the network was made elastic."""
_Slices = dict[Any, Slice | None]


# --- attributes ---------------------------------------------------------------------------------------------------------


def baseline(model: nn.Module) -> Baseline:
    """The attributes of all modules, as they are now."""
    return {path: (type(m), _attributes(m)) for path, m in model.named_modules()}


def _attributes(m: nn.Module) -> dict[str, Kept]:
    """Attributes of a module that may reach others: what does now, and in classes that are not torch's what may one day."""
    state = vars(m)
    foreign = not type(m).__module__.startswith("torch.")
    assigned = _assigned(type(m)) if foreign else set()
    found = {
        k: Kept.of(v, runtime=k in assigned)
        for k, v in state.items()
        if k not in _STANDARD and ((foreign and not isinstance(v, _NEVER_MAPPED)) or reaches(v))
    }
    lazy = [k for k, t in state["_buffers"].items() if t is None and k in assigned]
    found.update({k: Kept.of(None, runtime=True) for k in lazy})
    for name in assigned:
        if name not in _STANDARD and name not in found and not _in_tree(m, name):
            found[name] = Kept.of(state[name], runtime=True) if name in state else NOTHING
    return found


def _in_tree(m: nn.Module, name: str) -> bool:
    return any(name in m.__dict__[place] for place in MODULE_STATE)


@functools.cache
def _assigned_in(code: types.CodeType) -> frozenset[str]:
    return frozenset(str(i.argval) for i in dis.get_instructions(code) if i.opname == "STORE_ATTR")


def _assigned(kind: type) -> set[str]:
    """Names of attributes that a class's methods assign after construction; properties and slots are not among them."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith("torch."):
            continue
        for name, function in vars(base).items():
            if name != "__init__" and isinstance(function, types.FunctionType):
                names |= _assigned_in(function.__code__)
    return {n for n in names if not hasattr(inspect.getattr_static(kind, n, None), "__set__")}


def _codes_of_forward(kind: Any) -> tuple[types.CodeType, ...]:
    """The code of a class's forward, and of the methods that it calls, and those call."""
    found: dict[str, types.CodeType] = {}
    names = ["forward"]
    while names:
        function = inspect.unwrap(getattr(kind, names.pop(), None) or len)
        code = getattr(function, "__code__", None)
        if code is not None and code.co_name not in found and not hasattr(nn.Module, code.co_name):
            found[code.co_name] = code
            names += code.co_names
        elif code is not None and not found:
            found["forward"] = code
            names += code.co_names
    return tuple(found.values())


# --- classes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormKind:
    """What the batch norms of a network are.

    Attributes:
        switchable: whether widths have scales and shifts of their own.
        still: whether they stay in evaluation mode.
    """

    switchable: bool = False
    still: bool = False


_classes: weakref.WeakValueDictionary[Any, type] = weakref.WeakValueDictionary()


def _view_class(
    kind: type,
    tensors: tuple[tuple[str, str], ...],
    narrow: tuple[str, ...],
    attributes: frozenset[str],
    norms: NormKind,
    *,
    alone: bool,
) -> type:
    """The class of views of modules of a class that hold these tensors, narrow integers and attributes.

    Args:
        alone: whether the modules have no children.
    """
    key = (kind, tensors, narrow, attributes, norms, alone)
    known: Any = _classes.get(key)
    if known is None:
        namespace: dict[str, Any] = {
            "__slots__": narrow,
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "forward": ForwardProperty(forward_of),
            "_view_kind": kind,
            "_view_leaf": False,
            "_view_narrow": narrow,
            "_view_forward": property(lambda self: super(known, self).forward),
        }
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            namespace[name] = hooks_property(name)
        readers = _codes_of_forward(kind)
        norm = issubclass(kind, _BatchNorm)
        for place, name in tensors:
            if place == "_buffers" and name in attributes:
                namespace[name] = lazy_property(name)
            elif norm:
                namespace[name] = norm_property(place, name, readers, switchable=norms.switchable)
            else:
                namespace[name] = tensor_property(place, name, readers)
        plain = kind.__call__ is nn.Module.__call__ and kind._call_impl is nn.Module._call_impl  # pyright: ignore[reportFunctionMemberAccess]
        if plain and isinstance(inspect.getattr_static(kind, "forward"), types.FunctionType):
            namespace["__call__"] = call
            buffers = {name for place, name in tensors if place == "_buffers"}
            namespace["_view_leaf"] = (
                alone
                and bool(tensors)
                and attributes <= set(narrow)
                and not (_assigned(kind) or issubclass(kind, nn.RNNBase))
                and (not buffers or (norm and buffers == set(STATISTICS)))
            )
        if norm and norms.still:
            namespace["training"] = property(norm_training)
            namespace["train"] = norm_train
        for name in attributes - set(namespace) - set(narrow):
            namespace[name] = attribute_property(name)
        try:
            metaclass: Any = type(kind)
            known = metaclass(kind.__name__, (Live, kind), namespace)
        except TypeError as error:
            raise TraceError(
                f"views of {kind.__name__} cannot be made, as its class cannot be combined with another one ({error}). Classes of modules "
                "that are to be elastic have no __slots__."
            ) from error
        _classes[key] = known
    return known


def refreshed_(view: Any) -> None:
    """Look again for attributes of the wide module that reach others: a tool added some."""
    new = {
        k
        for k, v in view.__dict__.items()
        if k not in _STANDARD
        and reaches(v)
        and not isinstance(inspect.getattr_static(type(view), k, None), property)
    }
    if new:
        kind: Any = type(view)
        namespace = {
            "__slots__": (),
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            **{name: attribute_property(name) for name in new},
        }
        view._view_kept = {
            **view._view_kept,
            **{name: Kept.of(view.__dict__[name], runtime=False) for name in new},
        }
        object.__setattr__(view, "__class__", type(kind)(kind.__name__, (kind,), namespace))


# --- narrow integers ----------------------------------------------------------------------------------------------------


def _stated_sizes(m: nn.Module) -> tuple[str, ...]:
    """Attributes in which standard modules state the sizes of their weight."""
    if m.__dict__["_parameters"].get("weight") is None:
        return ()
    if isinstance(m, nn.modules.conv._ConvNd):
        return ("out_channels", "in_channels")
    if isinstance(m, nn.Linear):
        return ("out_features", "in_features")
    if isinstance(m, nn.modules.batchnorm._NormBase):
        return ("num_features",)
    if isinstance(m, nn.GroupNorm):
        return ("num_channels",)
    return ("num_embeddings", "embedding_dim") if isinstance(m, nn.Embedding) else ()


def _sizes_of(m: nn.Module, names: tuple[str, ...], shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """The values of `_stated_sizes` for a weight of this shape."""
    if isinstance(m, nn.modules.conv._ConvNd):
        first, second = shape[0], shape[1]
        return (second * groups, first) if m.transposed else (first, second * groups)
    return shape[: len(names)]


# --- views --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _ModulePlan:
    """Everything about one module of a view that does not depend on the width."""

    wide: nn.Module
    path: str
    kind: type
    kept: Mapping[str, Kept]
    tensors: tuple[tuple[str, tuple[AxisPlan | None, ...], torch.Size], ...]
    rules: tuple[AttributeRule, ...]
    sizes: tuple[str, ...]
    norm: bool
    children: tuple[tuple[str, int], ...]


class Blueprint:
    """Everything about the module tree that does not depend on the width.

    Args:
        model: the wide network.
        space: its channel space.
        kept: its attributes when it was made elastic; by default, as they are now.
        norms: what its batch norms are.
    """

    def __init__(
        self,
        model: nn.Module,
        space: ChannelSpace,
        kept: Baseline | None = None,
        norms: NormKind = NormKind(),
    ) -> None:
        self.model, self.space, self.norms = model, space, norms
        self._kept = {} if kept is None else kept
        self._rules: dict[str, list[AttributeRule]] = {}
        for rule in space.attributes:
            self._rules.setdefault(rule.module, []).append(rule)
        self._names: dict[int, str] = {}
        self.places: dict[int, tuple[nn.Module, str, str]] = {}
        paths = {m: path for path, m in model.named_modules()}
        for place in ("_parameters", "_buffers"):
            for m, path in paths.items():
                for key, t in m.__dict__[place].items():
                    if t is not None:
                        self._names.setdefault(id(t), f"{path}.{key}" if path else key)
                        self.places.setdefault(id(t), (m, place, key))
        same: dict[Any, tuple[AxisPlan | None, ...]] = {}
        self._axes = {
            n: same.setdefault(axes, tuple(None if a is None else AxisPlan.of(a) for a in axes))
            for n, axes in space.axes.items()
        }
        self._plans = [self._plan(m, path) for m, path in paths.items()]
        self._kept_by_module = {id(p.wide): p.kept for p in self._plans}
        self._watch(list(paths))

    def _plan(self, m: nn.Module, path: str) -> _ModulePlan:
        rules = tuple(self._rules.get(path, ()))
        tensors, cut = [], []
        for place in ("_parameters", "_buffers"):
            for key, t in m.__dict__[place].items():
                tensors.append((place, key))
                axes = None if t is None else self._axes.get(self._names[id(t)])
                if axes is not None:
                    assert t is not None
                    cut.append((key, axes, t.shape))
        sizes = _stated_sizes(m) if any(key == "weight" for key, _, _ in cut) else ()
        kind, kept = self._kept.get(path, (None, {}))
        if kind is not type(m):
            kept = _attributes(m)
        else:
            new = {k: v for k, v in vars(m).items() if k not in _STANDARD and k not in kept and reaches(v)}
            assigned = _assigned(kind)
            kept = {**kept, **{k: Kept.of(v, runtime=k in assigned) for k, v in new.items()}}
        narrow = tuple(sorted({r.name for r in rules} | set(sizes)))
        return _ModulePlan(
            wide=m,
            path=path,
            kind=_view_class(
                type(m), tuple(tensors), narrow, frozenset(kept), self.norms, alone=not m.__dict__["_modules"]
            ),
            kept=kept,
            tensors=tuple(cut),
            rules=rules,
            sizes=sizes,
            norm=isinstance(m, _BatchNorm),
            children=tuple((k, id(c)) for k, c in m.__dict__["_modules"].items()),
        )

    def _watch(self, modules: list[nn.Module]) -> None:
        """What tells that the tree changed: children of containers, and attributes of modules that are not torch's."""
        own = [m for m in modules if not type(m).__module__.startswith("torch.")]
        parents = [m for m in modules if m.__dict__["_modules"] or m in own]
        self._modules = modules
        self._children = [m.__dict__["_modules"] for m in parents]
        self._tensors = [m.__dict__[place] for m in parents for place in ("_parameters", "_buffers")]
        self._states = [m.__dict__ for m in own]
        self._known_names = [set(m.__dict__) | set(self._kept_by_module[id(m)]) for m in own]
        self._tree, self._sizes = self._structure(), list(map(len, self._states))

    def _structure(self) -> tuple[list, list, list]:
        return (
            list(map(type, self._modules)),
            [*map(list, map(dict.values, self._children))],
            [*map(len, self._tensors)],
        )

    @property
    def fresh(self) -> bool:
        """Whether the module tree is still the one this was made from."""
        if self._structure() != self._tree:
            return False
        sizes = list(map(len, self._states))
        if sizes != self._sizes:
            for state, known in zip(self._states, self._known_names, strict=True):
                if any(reaches(state[name]) for name in state.keys() - known):
                    return False
            self._sizes = sizes
        return True

    def build(
        self,
        width: Width,
        *,
        norms: Callable[[str], NormAt | None] | None = None,
        packs: PackStore | None = None,
        changed: Callable[[Any], None] = lambda shared: None,
    ) -> nn.Module:
        """The view at `width`.

        Args:
            width: need not be a prefix.
            norms: path -> the batch norm at this width; by default slices of the wide network's.
            packs: where copies for inference are kept; by default there are none.
            changed: is called when a user changes the view.
        """
        shared = Shared(packs, changed, self.places)
        slices: _Slices = {}
        views = {id(p.wide): _view(p, width, shared, norms, slices) for p in self._plans}
        for plan in self._plans:
            views[id(plan.wide)]._view_children.update({k: views.get(c) for k, c in plan.children})
        shared.modules.update({i: weakref.ref(v) for i, v in views.items()})
        for view in views.values():
            if view._view_kept:
                prepare_(view, methods=False)
        return views[id(self.model)]


_SLOTS = (
    "wide",
    "path",
    "kept",
    "shared",
    "children",
    "expected",
    "slices",
    "norm",
    "packs",
    "given",
    "memo",
    "own",
    "compiled",
)
_setters = [getattr(Live, f"_view_{name}").__set__ for name in _SLOTS]


def _view(
    plan: _ModulePlan,
    width: Width,
    shared: Shared,
    norms: Callable[[str], NormAt | None] | None,
    slices: _Slices,
) -> Any:
    """The view of one module, without children."""
    view, wide = object.__new__(plan.kind), plan.wide
    object.__setattr__(view, "__dict__", wide.__dict__)
    parts = {}
    for name, axes, shape in plan.tensors:
        key = (id(axes), shape)
        if key not in slices:
            cut = cut_by(axes, width)
            slices[key] = None if cut is None else Slice(cut, shape)
        if (part := slices[key]) is not None:
            parts[name] = part
    values = (wide, plan.path, plan.kept, shared, {}, dict(wide.__dict__["_modules"]), parts, norms(plan.path) if norms is not None and plan.norm else None)  # fmt: skip
    for put, value in zip(_setters, (*values, {}, {}, {}, {}, None), strict=True):
        put(view, value)
    for name, value in _narrow_integers(plan, parts, width).items():
        object.__setattr__(view, name, value)
    return view


def _narrow_integers(plan: _ModulePlan, parts: Mapping[str, Slice], width: Width) -> dict[str, Any]:
    found: dict[str, Any] = {}
    state = plan.wide.__dict__
    for rule in plan.rules:
        value: Any = rule.size.at(width)
        if rule.index is not None:
            old = list(found.get(rule.name, state[rule.name]))
            old[rule.index] = value
            value = type(state[rule.name])(old)
        found[rule.name] = value
    if plan.sizes:
        shape = parts["weight"].shape if "weight" in parts else tuple(state["_parameters"]["weight"].shape)
        groups = found.get("groups", state.get("groups", 1))
        stated = _sizes_of(plan.wide, plan.sizes, shape, groups)
        found.update(zip(plan.sizes, stated, strict=True))
    return found
