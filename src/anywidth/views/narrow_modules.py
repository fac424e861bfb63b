"""One module of a view: the wide module's state, and the slots that are narrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from anywidth.compat.layers import Convolution, FeatureNorm
from anywidth.compat.module_state import BUFFERS, MODULES
from anywidth.space.axes import AttributeRule, NumberRule
from anywidth.space.width import Width
from anywidth.views.attributes import Kept
from anywidth.views.base import Live, NormAt
from anywidth.views.configs import narrow_config
from anywidth.views.shared_state import Shared
from anywidth.views.slices import AxisPlan, Slice, cut_by

Slices = dict[Any, Slice | None]


def stated_sizes(m: nn.Module) -> tuple[str, ...]:
    """Attributes in which standard modules state the sizes of their weight."""
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
    """The values of `stated_sizes` for a weight of this shape."""
    if isinstance(m, Convolution):
        rows, columns = shape[0], shape[1]
        return (columns * groups, rows) if m.transposed else (rows, columns * groups)
    return shape[: len(names)]


@dataclass(frozen=True, kw_only=True)
class ModulePlan:
    """Everything about one module of a view that does not depend on the width."""

    wide_module: nn.Module
    path: str
    module_class: type
    kept: Mapping[str, Kept]
    tensors: tuple[tuple[str, tuple[AxisPlan | None, ...], torch.Size], ...]
    rules: tuple[AttributeRule, ...]
    numbers: tuple[NumberRule, ...]
    configs: Mapping[str, tuple[AttributeRule | NumberRule, ...]]
    sizes: tuple[str, ...]
    weight: tuple[
        tuple[tuple[AxisPlan | None, ...], torch.Size], ...
    ]  # axes and shape of what states the sizes, if anything
    norm: bool
    children: tuple[tuple[str, nn.Module | None], ...]


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


def narrow_module(
    plan: ModulePlan,
    width: Width,
    shared: Shared,
    norms: Callable[[str], NormAt | None] | None,
    slices: Slices,
) -> Any:
    """The view of one module, without children."""
    view, wide_module = object.__new__(plan.module_class), plan.wide_module
    buffers = wide_module.__dict__[BUFFERS]
    object.__setattr__(view, "__dict__", wide_module.__dict__)

    def active_part(axes: tuple[AxisPlan | None, ...], shape: torch.Size) -> Slice | None:
        key = (id(axes), shape)
        if key not in slices:
            cut = cut_by(axes, width)
            slices[key] = None if cut is None else Slice(cut, shape)
        return slices[key]

    parts = {name: active_part(axes, shape) for name, axes, shape in plan.tensors}
    slices_by_name = {name: part for name, part in parts.items() if part is not None}
    given = {n.name: buffers[n.name] * n.factor(width) for n in plan.numbers if n.name in buffers}
    values = (wide_module, plan.path, plan.kept, shared, {}, dict(wide_module.__dict__[MODULES]), slices_by_name, norms(plan.path) if norms is not None and plan.norm else None)  # fmt: skip
    for put, value in zip(_setters, (*values, {}, given, {}, {}, None), strict=True):
        put(view, value)
    shapes = [(shape, active_part(axes, shape)) for axes, shape in plan.weight]
    weight_shape = next((tuple(s) if part is None else part.shape for s, part in shapes), ())
    for name, value in _narrow_numbers(plan, weight_shape, width).items():
        object.__setattr__(view, name, value)
    for name, rules in plan.configs.items():
        config = wide_module.__dict__[name]
        if id(config) not in shared.configs:
            shared.configs[id(config)] = narrow_config(config, _followed(rules, vars(config), width))
        object.__setattr__(view, name, shared.configs[id(config)])
    return view


def _integers(rules: Sequence[AttributeRule], state: Mapping[str, Any], width: Width) -> dict[str, Any]:
    """Attributes that follow the width, with all that they hold."""
    values: dict[str, Any] = {}
    for rule in rules:
        value: Any = rule.size.at(width)
        if rule.index is not None:
            old = list(values.get(rule.name, state[rule.name]))
            old[rule.index] = value
            value = type(state[rule.name])(old)
        values[rule.name] = value
    return values


def _followed(
    rules: Sequence[AttributeRule | NumberRule], state: Mapping[str, Any], width: Width
) -> dict[str, Any]:
    """Integers and floats that follow the width."""
    numbers = {r.name: state[r.name] * r.factor(width) for r in rules if isinstance(r, NumberRule)}
    return _integers([r for r in rules if isinstance(r, AttributeRule)], state, width) | numbers


def _narrow_numbers(plan: ModulePlan, weight_shape: tuple[int, ...], width: Width) -> dict[str, Any]:
    state = plan.wide_module.__dict__
    values = _integers(plan.rules, state, width)
    values |= {n.name: state[n.name] * n.factor(width) for n in plan.numbers if n.name in state}
    if plan.sizes:
        groups = values.get("groups", state.get("groups", 1))
        stated = _sizes_of(plan.wide_module, plan.sizes, weight_shape, groups)
        values.update(zip(plan.sizes, stated, strict=True))
    return values
