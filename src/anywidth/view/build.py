"""Making views, and stand-alone copies of them."""

from __future__ import annotations

import copy
import operator
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.channels.space import AttributeRule, ChannelSpace
from anywidth.errors import TraceError
from anywidth.view.link import Link, leaf_of, link_of
from anywidth.view.slices import AxisPlan, Cut, cut_by
from anywidth.view.tree import pointing, remapped, set_attribute, shell, tidy, with_functions
from anywidth.width import Width

_HOOKED = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class Blueprint:
    """Everything about the module tree that does not depend on the width."""

    def __init__(self, model: nn.Module, space: ChannelSpace) -> None:
        self.model, self.space = model, space
        self.paths = {id(m): path for path, m in model.named_modules()}
        self.modules = [m for _, m in model.named_modules()]
        self.names: dict[int, str] = {}
        self.slots: list[tuple[dict, str]] = []
        for kind in ("_parameters", "_buffers"):
            for path, m in model.named_modules():
                for key, t in getattr(m, kind).items():
                    if t is not None:
                        self.slots.append((getattr(m, kind), key))
                        self.names.setdefault(id(t), f"{path}.{key}" if path else key)
        self.links = [(m._modules, key) for m in self.modules for key in m._modules]
        self.children = [d[key] for d, key in self.links]
        same: dict[Any, tuple[AxisPlan | None, ...]] = {}
        self.plans = {
            n: same.setdefault(axes, tuple(None if a is None else AxisPlan.of(a) for a in axes))
            for n, axes in space.axes.items()
        }
        self.rules: dict[str, list[AttributeRule]] = {}
        for rule in space.attributes:
            self.rules.setdefault(rule.module, []).append(rule)
        self.pointing = {id(m): keys for m in self.modules if (keys := pointing(m))}

    @property
    def fresh(self) -> bool:
        """Whether the module tree is still the one this was made from."""
        return all(map(operator.is_, [d.get(key) for d, key in self.links], self.children)) and all(
            id(d.get(key)) in self.names for d, key in self.slots
        )

    def build(
        self,
        width: Width,
        overrides: Mapping[str, Tensor],
        before: Sequence[Callable[[nn.Module], None]] = (),
    ) -> nn.Module:
        """The view at `width`, with `overrides` (tensor name -> tensor) put in place of wide tensors."""
        return _Assembly(self, width, overrides, before).root()


class _Assembly:
    """One view in the making."""

    def __init__(
        self,
        plan: Blueprint,
        width: Width,
        overrides: Mapping[str, Tensor],
        before: Sequence[Callable[[nn.Module], None]],
    ) -> None:
        self.plan, self.width, self.overrides = plan, width, overrides
        self.link = Link(plan.slots, plan.links, before)
        self.cuts: dict[int, Cut | None] = {}
        self.new: dict[int, Any] = {id(m): shell(m) for m in plan.modules}

    def root(self) -> nn.Module:
        with torch.inference_mode(False):  # a view made during evaluation may be trained later
            for m in self.plan.modules:
                self._fill(self.new[id(m)], m)
        for m in self.plan.modules:
            state = self.new[id(m)].__dict__
            for key in self.plan.pointing.get(id(m), ()):
                state[key] = remapped(state[key], self.new)
        made = self.new[id(self.plan.model)]
        _attach(made, self.link)
        return made

    def _fill(self, view: nn.Module, wide: nn.Module) -> None:
        state = view.__dict__
        for kind in ("_parameters", "_buffers"):
            state[kind] = {k: None if t is None else self._tensor(t) for k, t in wide.__dict__[kind].items()}
        state["_modules"] = {
            k: None if m is None else self.new[id(m)] for k, m in wide.__dict__["_modules"].items()
        }
        for rule in self.plan.rules.get(self.plan.paths[id(wide)], ()):
            set_attribute(state, rule, self.width)
        tidy(view)

    def _tensor(self, wide: Tensor) -> Tensor:
        made = self.new.get(id(wide))
        if made is None:
            made = self.new[id(wide)] = self._made(wide, self.plan.names[id(wide)])
        return made

    def _made(self, wide: Tensor, name: str) -> Tensor:
        if name in self.overrides:
            return self.overrides[name]
        part = self._cut(name)
        if not isinstance(wide, nn.Parameter):
            return wide if part is None else part.of(wide)
        leaf = leaf_of(wide, part)
        if part is not None:
            self.link.keep(leaf, wide, part)
        return leaf

    def _cut(self, name: str) -> Cut | None:
        plans = self.plan.plans.get(name)
        if plans is None:
            return None
        if id(plans) not in self.cuts:
            self.cuts[id(plans)] = cut_by(plans, self.width)
        return self.cuts[id(plans)]


def _attach(root: nn.Module, link: Link) -> None:
    """Give the root its link: a check before forward, compact state_dicts, and copies that stand alone."""
    state = root.__dict__
    link.plain_hooks = {key: state[key] for key in _HOOKED}
    state.update({key: copy.copy(hooks) for key, hooks in link.plain_hooks.items()})
    root.register_forward_pre_hook(link.enter)
    root.register_forward_hook(link.leave, always_call=True)
    root.register_state_dict_pre_hook(lambda *args: link.renew())
    root.register_state_dict_post_hook(_compact_state)
    root.register_load_state_dict_pre_hook(lambda *args: link.renew())
    root.register_load_state_dict_post_hook(lambda *args: link.push())
    state["_anywidth_link"] = link
    itself = weakref.ref(root)  # no cycle: a view that nobody holds is gone at once, with its copies
    state["__deepcopy__"] = lambda memo: standalone(_alive(itself), memo)
    state["__reduce_ex__"] = lambda protocol: standalone(_alive(itself)).__reduce_ex__(protocol)


def _alive(reference: weakref.ref[nn.Module]) -> nn.Module:
    view = reference()
    assert view is not None, "a method of a view is called on the view"
    return view


def _compact_state(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Clone slices, so that a saved view holds its own elements and not the wide network's."""
    for key, t in state.items():
        if isinstance(t, Tensor) and t.untyped_storage().nbytes() > t.numel() * t.element_size():
            state[key] = t.detach().clone(memory_format=torch.contiguous_format)


def standalone(view: nn.Module, memo: dict | None = None) -> nn.Module:
    """A copy of a view that owns its tensors and knows nothing of this package."""
    link = link_of(view)
    assert link is not None
    link.renew()
    memo = {} if memo is None else memo
    for b in view.buffers():
        memo[id(b)] = b.detach().clone()
    bare = shell(view)
    state = bare.__dict__
    state.update(link.plain_hooks)
    for key in ("__deepcopy__", "__reduce_ex__", "_anywidth_link"):
        del state[key]
    if state.pop("_anywidth_compiled", False):
        del state["forward"]
    kind = type(view)
    if hasattr(kind, "__deepcopy__") or kind.__getstate__ is not nn.Module.__getstate__:
        made = copy.deepcopy(bare, memo)
    else:
        made = kind.__new__(kind)
        memo[id(view)] = made  # bound methods of the root lead here, not to another copy of the view
        made.__dict__.update(copy.deepcopy(bare.__getstate__(), memo))
    memo[id(view)] = made
    _rebind_functions(view, bare, made)
    return made


def _rebind_functions(view: nn.Module, bare: nn.Module, made: nn.Module) -> None:
    """Closures over modules of the view become closures over those of its copy."""
    copies = {id(v): c for v, c in zip(view.modules(), made.modules(), strict=True)}
    for v, c in zip(view.modules(), made.modules(), strict=True):
        source = bare if v is view else v
        for key in with_functions(source):
            vars(c)[key] = remapped(vars(source)[key], copies)


def compile_(view: nn.Module, **options: Any) -> nn.Module:
    """Compile a view's forward under a code object of its own, so that widths do not compete for one cache.

    The check for staleness stays outside the compiled graph.
    """
    forward = type(view).forward
    code = getattr(forward, "__code__", None)
    if code is None:
        raise TraceError(
            f"{type(view).__name__}.forward is not a Python function and cannot be compiled per width."
        )
    own = types.FunctionType(
        # Not under torch's own file name: dynamo skips the frames of its own modules (nn.Sequential).
        code.replace(co_name=f"{code.co_name}_at_width", co_filename="<anywidth>"),
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    view.__dict__["forward"] = torch.compile(types.MethodType(own, view), **{"fullgraph": True, **options})
    view.__dict__["_anywidth_compiled"] = True
    return view
