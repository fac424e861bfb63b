"""Making views: everything that does not depend on the width is worked out once per network."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from anywidth.compat.layers import BatchNorm
from anywidth.compat.module_state import BUFFERS, MODULES, PARAMETERS, STANDARD_ATTRIBUTES, TENSOR_REGISTRIES
from anywidth.compat.reparametrised import forget_cached_weights_
from anywidth.space.axes import AttributeRule, NumberRule
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width
from anywidth.tracing.opaque_modules import open_modules
from anywidth.tracing.traced_attributes import configs_of
from anywidth.views.attributes import Kept, prepare_
from anywidth.views.base import NormAt
from anywidth.views.baseline import Baseline, assigned_names, attributes_now
from anywidth.views.classes import NormKind, view_class
from anywidth.views.mapping import reaches
from anywidth.views.narrow_modules import ModulePlan, Slices, narrow_module, stated_sizes
from anywidth.views.packed_copies import PackStore
from anywidth.views.shared_state import Shared
from anywidth.views.slices import AxisPlan


def _weight(m: nn.Module) -> Tensor | None:
    """The weight of a standard module, or the tensor of its shape from which it is computed."""
    own = m.__dict__[PARAMETERS]
    parametrizations = m.__dict__[MODULES].get("parametrizations")
    if parametrizations is not None and "weight" in parametrizations:
        # weight_norm has the norms as its first original, and the directions, of the weight's shape, as the second.
        own = parametrizations["weight"].__dict__[PARAMETERS]
        return own.get("original1", own.get("original"))
    # Plain, under the old hook of weight_norm, under other old hooks and masks of pruning.
    return next((own[n] for n in ("weight", "weight_v", "weight_orig") if own.get(n) is not None), None)


class Blueprint:
    """Everything about the module tree that does not depend on the width.

    Args:
        model: the wide network.
        space: its channel space.
        kept: its attributes when it was made elastic; by default, as they are now.
        norms: what its batch norms are.

    Attributes: the same.
    """

    def __init__(
        self,
        model: nn.Module,
        space: ChannelSpace,
        kept: Baseline | None = None,
        norms: NormKind | None = None,
    ) -> None:
        self.model, self.space, self.norms = model, space, norms or NormKind()
        self.kept = {} if kept is None else kept
        self._rules: dict[str, list[AttributeRule]] = {}
        self._config_rules: dict[int, list[AttributeRule | NumberRule]] = {}
        self._numbers: dict[str, list[NumberRule]] = {}
        for rule in (*space.attributes, *space.numbers):
            holder, _, entry = rule.name.partition(".")
            if entry:  # of a config, which other modules hold, too
                config = vars(model.get_submodule(rule.module)).get(holder)
                self._config_rules.setdefault(id(config), []).append(replace(rule, name=entry))
            elif isinstance(rule, NumberRule):
                self._numbers.setdefault(rule.module, []).append(rule)
            else:
                self._rules.setdefault(rule.module, []).append(rule)
        # Tensors by identity: a tied weight has one name and one axis, however many modules hold it.
        self._names: dict[int, str] = {}
        self.places: dict[int, tuple[nn.Module, str, str]] = {}
        paths = {m: path for path, m in open_modules(model).items()}
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

    def _plan(self, m: nn.Module, path: str) -> ModulePlan:
        rules = tuple(self._rules.get(path, ()))
        tensors, cut = [], []
        for registry in TENSOR_REGISTRIES:
            for key, t in m.__dict__[registry].items():
                tensors.append((registry, key))
                axes = None if t is None else self._axes.get(self._names[id(t)])
                if axes is not None:
                    assert t is not None
                    cut.append((key, axes, t.shape))
        weight = _weight(m)
        weight_axes = None if weight is None else self._axes.get(self._names.get(id(weight), ""))
        sizes = () if weight_axes is None else stated_sizes(m)
        module_class, kept = self.kept.get(path, (None, {}))
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
        numbers = tuple(
            n for n in self._numbers.get(path, ()) if n.name in vars(m) or n.name in m.__dict__[BUFFERS]
        )
        configs = {n: tuple(found) for n, c in configs_of(m) if (found := self._config_rules.get(id(c)))}
        floats = {n.name for n in numbers if n.name not in m.__dict__[BUFFERS]}
        narrow = tuple(sorted({r.name for r in rules} | set(sizes) | floats | set(configs)))
        return ModulePlan(
            wide_module=m,
            path=path,
            module_class=view_class(
                type(m), tuple(tensors), narrow, frozenset(kept), self.norms, alone=not m.__dict__[MODULES]
            ),
            kept=kept,
            tensors=tuple(cut),
            rules=rules,
            numbers=numbers,
            configs=configs,
            sizes=sizes,
            weight=() if weight is None or weight_axes is None else ((weight_axes, weight.shape),),
            norm=isinstance(m, BatchNorm),
            children=tuple(m.__dict__[MODULES].items()),
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
        slices: Slices = {}
        views = {id(p.wide_module): narrow_module(p, width, shared, norms, slices) for p in self._plans}
        for plan in self._plans:
            # A child without a view is None, or opaque: that one runs as it is.
            children = {k: views.get(id(c), c) for k, c in plan.children}
            views[id(plan.wide_module)]._view_children.update(children)
        forget_cached_weights_(views.values())
        shared.modules.update({i: weakref.ref(v) for i, v in views.items()})
        for view in views.values():
            if view._view_kept:
                prepare_(view, methods=False)
        return views[id(self.model)]
