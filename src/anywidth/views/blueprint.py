"""Making views: everything that does not depend on the width is worked out once per network."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from anywidth.compat.layers import BatchNorm, Convolution, FeatureNorm
from anywidth.compat.module_state import MODULES, PARAMETERS, STANDARD_ATTRIBUTES, TENSOR_REGISTRIES
from anywidth.space.axes import AttributeRule
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width
from anywidth.views.attributes import Kept, prepare_
from anywidth.views.base import Live, NormAt
from anywidth.views.baseline import Baseline, assigned_names, attributes_now
from anywidth.views.classes import NormKind, view_class
from anywidth.views.mapping import reaches
from anywidth.views.packed_copies import PackStore
from anywidth.views.shared_state import Shared
from anywidth.views.slices import AxisPlan, Slice, cut_by

_Slices = dict[Any, Slice | None]


def _stated_sizes(m: nn.Module) -> tuple[str, ...]:
    """Attributes in which standard modules state the sizes of their weight."""
    if m.__dict__[PARAMETERS].get("weight") is None:
        return ()
    if isinstance(m, Convolution):
        return ("out_channels", "in_channels")
    if isinstance(m, nn.Linear):
        return ("out_features", "in_features")
    if isinstance(m, FeatureNorm):
        return ("num_features",)
    if isinstance(m, nn.GroupNorm):
        return ("num_channels",)
    if isinstance(m, nn.Bilinear):
        return ("out_features", "in1_features", "in2_features")
    return ("num_embeddings", "embedding_dim") if isinstance(m, nn.Embedding | nn.EmbeddingBag) else ()


def _sizes_of(m: nn.Module, names: tuple[str, ...], shape: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """The values of `_stated_sizes` for a weight of this shape."""
    if isinstance(m, Convolution):
        rows, columns = shape[0], shape[1]
        return (columns * groups, rows) if m.transposed else (rows, columns * groups)
    return shape[: len(names)]


@dataclass(frozen=True, kw_only=True)
class _ModulePlan:
    """Everything about one module of a view that does not depend on the width."""

    wide_module: nn.Module
    path: str
    module_class: type
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
        norms: NormKind | None = None,
    ) -> None:
        self.model, self.space, self.norms = model, space, norms or NormKind()
        self._kept = {} if kept is None else kept
        self._rules: dict[str, list[AttributeRule]] = {}
        for rule in space.attributes:
            self._rules.setdefault(rule.module, []).append(rule)
        # Tensors by identity: a tied weight has one name and one axis, however many modules hold it.
        self._names: dict[int, str] = {}
        self.places: dict[int, tuple[nn.Module, str, str]] = {}
        paths = {m: path for path, m in model.named_modules()}
        for registry in TENSOR_REGISTRIES:
            for m, path in paths.items():
                for key, t in m.__dict__[registry].items():
                    if t is not None:
                        self._names.setdefault(id(t), f"{path}.{key}" if path else key)
                        self.places.setdefault(id(t), (m, registry, key))
        same: dict[Any, tuple[AxisPlan | None, ...]] = {}
        self._axes = {
            n: same.setdefault(axes, tuple(None if a is None else AxisPlan.of(a) for a in axes))
            for n, axes in space.axes.items()
        }
        self._plans = [self._plan(m, path) for m, path in paths.items()]
        self._kept_by_module = {id(p.wide_module): p.kept for p in self._plans}
        self._watch(list(paths))

    def _plan(self, m: nn.Module, path: str) -> _ModulePlan:
        rules = tuple(self._rules.get(path, ()))
        tensors, cut = [], []
        for registry in TENSOR_REGISTRIES:
            for key, t in m.__dict__[registry].items():
                tensors.append((registry, key))
                axes = None if t is None else self._axes.get(self._names[id(t)])
                if axes is not None:
                    assert t is not None
                    cut.append((key, axes, t.shape))
        sizes = _stated_sizes(m) if any(key == "weight" for key, _, _ in cut) else ()
        module_class, kept = self._kept.get(path, (None, {}))
        if module_class is not type(m):
            kept = attributes_now(m)
        else:
            new = {
                k: v
                for k, v in vars(m).items()
                if k not in STANDARD_ATTRIBUTES and k not in kept and reaches(v)
            }
            assigned = assigned_names(module_class)
            kept = {**kept, **{k: Kept.of(v, runtime=k in assigned) for k, v in new.items()}}
        # conv.out_channels is one of torch's own sizes (`sizes`), self.num_heads of an attention is found by the trace (`rules`): both are
        # integers that every width has its own of, so they are slots of the view's class.
        narrow = tuple(sorted({r.name for r in rules} | set(sizes)))
        return _ModulePlan(
            wide_module=m,
            path=path,
            module_class=view_class(
                type(m), tuple(tensors), narrow, frozenset(kept), self.norms, alone=not m.__dict__[MODULES]
            ),
            kept=kept,
            tensors=tuple(cut),
            rules=rules,
            sizes=sizes,
            norm=isinstance(m, BatchNorm),
            children=tuple((k, id(c)) for k, c in m.__dict__[MODULES].items()),
        )

    def _watch(self, modules: list[nn.Module]) -> None:
        """What tells that the tree changed: children of containers, and attributes of modules that are not torch's."""
        foreign_modules = [m for m in modules if not type(m).__module__.startswith("torch.")]
        parents = [m for m in modules if m.__dict__[MODULES] or m in foreign_modules]
        self._wide_modules = modules
        self._children = [m.__dict__[MODULES] for m in parents]
        self._tensors = [m.__dict__[registry] for m in parents for registry in TENSOR_REGISTRIES]
        self._states = [m.__dict__ for m in foreign_modules]
        self._known_names = [set(m.__dict__) | set(self._kept_by_module[id(m)]) for m in foreign_modules]
        self._tree, self._sizes = self._structure(), list(map(len, self._states))

    # Compared at every call of `Elastic.at`, so it must not walk 1,000 modules in Python: the lists below are filled once, and
    # list equality of modules, classes and lengths runs in C.
    def _structure(self) -> tuple[list, list, list]:
        return (
            list(map(type, self._wide_modules)),
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
        views = {id(p.wide_module): _view(p, width, shared, norms, slices) for p in self._plans}
        for plan in self._plans:
            views[id(plan.wide_module)]._view_children.update({k: views.get(c) for k, c in plan.children})
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
    view, wide_module = object.__new__(plan.module_class), plan.wide_module
    object.__setattr__(view, "__dict__", wide_module.__dict__)
    slices_by_name = {}
    for name, axes, shape in plan.tensors:
        key = (id(axes), shape)
        if key not in slices:
            cut = cut_by(axes, width)
            slices[key] = None if cut is None else Slice(cut, shape)
        if (active := slices[key]) is not None:
            slices_by_name[name] = active
    values = (wide_module, plan.path, plan.kept, shared, {}, dict(wide_module.__dict__[MODULES]), slices_by_name, norms(plan.path) if norms is not None and plan.norm else None)  # fmt: skip
    for put, value in zip(_setters, (*values, {}, {}, {}, {}, None), strict=True):
        put(view, value)
    for name, value in _narrow_integers(plan, slices_by_name, width).items():
        object.__setattr__(view, name, value)
    return view


def _narrow_integers(plan: _ModulePlan, slices_by_name: Mapping[str, Slice], width: Width) -> dict[str, Any]:
    values: dict[str, Any] = {}
    state = plan.wide_module.__dict__
    for rule in plan.rules:
        value: Any = rule.size.at(width)
        if rule.index is not None:
            old = list(values.get(rule.name, state[rule.name]))
            old[rule.index] = value
            value = type(state[rule.name])(old)
        values[rule.name] = value
    if plan.sizes:
        shape = (
            slices_by_name["weight"].shape
            if "weight" in slices_by_name
            else tuple(state[PARAMETERS]["weight"].shape)
        )
        groups = values.get("groups", state.get("groups", 1))
        stated = _sizes_of(plan.wide_module, plan.sizes, shape, groups)
        values.update(zip(plan.sizes, stated, strict=True))
    return values
