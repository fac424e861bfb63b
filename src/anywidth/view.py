"""Views: ordinary modules whose tensors alias parts of the wide network's. The only file that touches tensors.

A view is a shallow copy of the module tree. Each of its parameters is a leaf whose data is a slice of the wide
parameter; when its gradient is complete, it is added to the same slice of the wide parameter's gradient and dropped.
Where the active channels are no prefix (concatenated inputs, packed qkv), a leaf holds a gathered copy that is renewed
when the wide parameter has changed. In inference, slices that are not contiguous are packed, on the same terms.
"""

from __future__ import annotations

import copy
import operator
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.channels.space import Axis, ChannelSpace
from anywidth.errors import StaleViewError, TraceError
from anywidth.width import Width

_TREE = ("_modules", "_parameters", "_buffers")
_HOOKED = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


_LEARNS = operator.attrgetter("requires_grad")


@dataclass(frozen=True)
class AxisPlan:
    """What can be said of an axis before the width is known."""

    axis: Axis
    total: int
    prefix: bool  # one run of units from the first on: any nested width is a prefix slice

    @staticmethod
    def of(axis: Axis) -> AxisPlan:
        return AxisPlan(axis, sum(r.positions for r in axis), len(axis) == 1 and axis[0].first == 0)

    def part(self, width: Width) -> slice | Tensor | None:
        """Active positions: a prefix slice where possible, else their numbers; None for all of them."""
        if self.prefix and width.indices is None:
            run = self.axis[0]
            stop = min(width.kept[run.group], run.count) * run.each
            return None if stop == self.total else slice(0, stop)
        parts, start = [], 0
        for r in self.axis:
            if r.group < 0:
                parts.append(np.arange(start, start + r.positions))
            else:
                units = np.asarray(width.units(r.group))
                mine = units[(units >= r.first) & (units < r.first + r.count)] - r.first
                parts.append((start + mine[:, None] * r.each + np.arange(r.each)).ravel())
            start += r.positions
        chosen = np.concatenate(parts)
        if chosen.size == self.total:
            return None
        if chosen[-1] == chosen.size - 1:
            return slice(0, int(chosen.size))
        return torch.from_numpy(chosen)


@dataclass(frozen=True)
class Cut:
    """Which part of a wide tensor is active: one entry per axis."""

    parts: tuple[slice | Tensor | None, ...]

    @property
    def aliases(self) -> bool:
        return not any(isinstance(p, Tensor) for p in self.parts)

    def of(self, t: Tensor) -> Tensor:
        """The active part: a view of `t` where possible, else a copy."""
        for dim, part in enumerate(self.parts):
            if isinstance(part, slice):
                t = t.narrow(dim, 0, part.stop)
            elif part is not None:
                t = t.index_select(dim, part.to(t.device))
        return t

    def add_(self, t: Tensor, value: Tensor) -> None:
        """Add `value` to the active part of `t`."""
        if self.aliases:
            self.of(t).add_(value)
            return
        gathered = [d for d, p in enumerate(self.parts) if isinstance(p, Tensor)]
        t = self._sliced(t)
        if len(gathered) == 1:
            t.index_add_(gathered[0], self.parts[gathered[0]].to(t.device), value)  # type: ignore[union-attr]
        else:
            self._put(t, gathered, value, accumulate=True)

    def write_(self, t: Tensor, value: Tensor) -> None:
        """Write `value` over the active part of `t`."""
        if self.aliases:
            self.of(t).copy_(value)
        else:
            self._put(self._sliced(t), [d for d, p in enumerate(self.parts) if isinstance(p, Tensor)], value)

    def _sliced(self, t: Tensor) -> Tensor:
        for dim, part in enumerate(self.parts):
            if isinstance(part, slice):
                t = t.narrow(dim, 0, part.stop)
        return t

    def _put(self, t: Tensor, gathered: list[int], value: Tensor, *, accumulate: bool = False) -> None:
        mesh = torch.meshgrid(*[self.parts[d].to(t.device) for d in gathered], indexing="ij")  # type: ignore[union-attr]
        first = list(range(len(gathered)))
        t.movedim(gathered, first).index_put_(mesh, value.movedim(gathered, first), accumulate=accumulate)


def cut(space: ChannelSpace, name: str, width: Width) -> Cut | None:
    """The active part of a tensor at a width; None if it is all of it."""
    axes = space.axes.get(name)
    return None if axes is None else _cut([None if a is None else AxisPlan.of(a) for a in axes], width)


def _cut(plans: Sequence[AxisPlan | None], width: Width) -> Cut | None:
    parts = tuple([None if p is None else p.part(width) for p in plans])
    return Cut(parts) if any(p is not None for p in parts) else None


# --- gradients ----------------------------------------------------------------------------------------------------


def _give(wide: Tensor, part: Cut | None, leaf: Tensor) -> None:
    """Add a leaf's gradient into the wide parameter's and drop it."""
    grad, leaf.grad = leaf.grad, None
    assert grad is not None
    if part is None:
        if wide.grad is None:
            wide.grad = grad
        else:
            wide.grad.add_(grad)
        return
    if wide.grad is None:
        wide.grad = torch.zeros_like(wide)
    part.add_(wide.grad, grad)


def _leaf(wide: nn.Parameter, part: Cut | None) -> nn.Parameter:
    with torch.no_grad():
        data = wide.data if part is None else part.of(wide.data)
    leaf = torch.Tensor._make_subclass(type(wide), data, wide.requires_grad)
    if wide.requires_grad:
        leaf.register_post_accumulate_grad_hook(partial(_give, wide, part))
    return leaf


# --- what a view remembers about its origin ------------------------------------------------------------------------


class Link:
    """The tie between a view and the wide tensors: notices when it broke, renews copies, packs for inference."""

    def __init__(
        self,
        slots: Sequence[tuple[dict, str]],
        links: Sequence[tuple[dict, str]],
        before: Sequence[Callable[[nn.Module], None]],
    ) -> None:
        self.places = [d for d, _ in (*slots, *links)]
        self.keys = [n for _, n in (*slots, *links)]
        self.origins = list(map(dict.get, self.places, self.keys))
        self.tensors: list[Tensor] = [d[n] for d, n in slots]
        self.parameters = [t for t in self.tensors if isinstance(t, nn.Parameter)]
        self.pointers = list(map(Tensor.data_ptr, self.tensors))
        self.learning = list(map(_LEARNS, self.parameters))
        self.gathered: list[tuple[nn.Parameter, Tensor, Cut]] = []
        self.strided: list[tuple[nn.Parameter, Tensor, Cut]] = []
        self.versions: list[int] = []
        self.packed: list[int] | None = None
        self.before = before
        self.plain_hooks: dict[str, Any] = {}

    @property
    def fresh(self) -> bool:
        return (
            all(map(operator.is_, map(dict.get, self.places, self.keys), self.origins))
            and list(map(Tensor.data_ptr, self.tensors)) == self.pointers
            and list(map(_LEARNS, self.parameters)) == self.learning
        )

    def seal(self) -> None:
        self.versions = [w._version for _, w, _ in self.gathered]
        self.strided = [s for s in self.strided if not s[0].is_contiguous()]

    def prepare(self, view: nn.Module) -> None:
        """Before every forward of the view."""
        if torch.compiler.is_compiling():
            return
        if not self.fresh:
            raise StaleViewError(
                f"this view of {type(view).__name__} aliases tensors that the wide network no longer has (it was moved, cast, "
                "or its parameters were replaced, frozen or unfrozen). Call net.at(width) again."
            )
        for check in self.before:
            check(view)
        self.renew()
        if self.strided:
            inference = not (view.training or torch.is_grad_enabled())
            if inference:
                self._pack()
            elif self.packed is not None:
                self.unpack()

    def renew(self) -> None:
        if self.gathered:
            now = [w._version for _, w, _ in self.gathered]
            if now != self.versions:
                for (leaf, wide, part), a, b in zip(self.gathered, now, self.versions, strict=True):
                    if a != b:
                        leaf.data.copy_(part.of(wide.data))
                self.versions = now

    def refresh(self) -> None:
        """Copies that hold older weights than the wide network, renewed outside a forward."""
        self.renew()
        if self.packed is not None:
            self.unpack()

    def push(self) -> None:
        """What was loaded into gathered copies, written to the wide network; slices are there already."""
        for leaf, wide, part in self.gathered:
            part.write_(wide.data, leaf.data)
        for t in self.tensors:
            torch.autograd.graph.increment_version(t)  # writes through a slice do not count by themselves

    def _pack(self) -> None:
        now = [w._version for _, w, _ in self.strided]
        if now == self.packed:
            return
        with torch.inference_mode(False), torch.no_grad():
            for leaf, wide, part in self.strided:
                leaf.data = part.of(wide.data).clone(memory_format=torch.preserve_format)
        self.packed = now

    def unpack(self) -> None:
        """Alias the wide tensors again."""
        with torch.inference_mode(False), torch.no_grad():
            for leaf, wide, part in self.strided:
                leaf.data = part.of(wide.data)
        self.packed = None


def link_of(view: nn.Module) -> Link | None:
    """The link of a view's root; None for any other module."""
    return view.__dict__.get("_anywidth_link")


# --- building -------------------------------------------------------------------------------------------------------


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
        self.rules: dict[str, list[Any]] = {}
        for rule in space.attributes:
            self.rules.setdefault(rule.module, []).append(rule)
        self.caches = {id(m): keys for m in self.modules if (keys := cache_attributes(m))}
        self.remap = {
            id(m): keys for m in self.modules if (keys := [k for k, v in vars(m).items() if _refers(k, v)])
        }

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
        link = Link(self.slots, self.links, before)
        tensors: dict[int, Tensor] = {}
        cuts: dict[int, Cut | None] = {}
        new = {id(m): _shell(m) for m in self.modules}
        with torch.inference_mode(False):  # a view made during evaluation may be trained later
            for m in self.modules:
                self._fill(new[id(m)], m, width, overrides, link, tensors, cuts, new)
        link.seal()
        root = new[id(self.model)]
        _attach(root, link)
        return root

    def _fill(
        self,
        view: nn.Module,
        wide: nn.Module,
        width: Width,
        overrides: Mapping[str, Tensor],
        link: Link,
        tensors: dict[int, Tensor],
        cuts: dict[int, Cut | None],
        new: dict[int, nn.Module],
    ) -> None:
        state = view.__dict__
        for kind in ("_parameters", "_buffers"):
            state[kind] = {
                key: None
                if t is None
                else tensors.get(id(t))
                if id(t) in tensors
                else self._tensor(t, width, overrides, link, tensors, cuts)
                for key, t in wide.__dict__[kind].items()
            }
        state["_modules"] = {
            key: None if m is None else new[id(m)] for key, m in wide.__dict__["_modules"].items()
        }
        for rule in self.rules.get(self.paths[id(wide)], ()):
            _set_attribute(state, rule, width)
        for key in self.remap.get(id(wide), ()):
            state[key] = _remapped(state[key], new)
        for key in self.caches.get(id(wide), ()):
            state[key] = without_tensors(state[key])
        _tidy(view)

    def _tensor(
        self,
        wide: Tensor,
        width: Width,
        overrides: Mapping[str, Tensor],
        link: Link,
        tensors: dict[int, Tensor],
        cuts: dict[int, Cut | None],
    ) -> Tensor:
        name = self.names[id(wide)]
        if name in overrides:
            tensors[id(wide)] = overrides[name]
            return overrides[name]
        plans = self.plans.get(name)
        if plans is None:
            part = None
        else:
            if id(plans) not in cuts:
                cuts[id(plans)] = _cut(plans, width)
            part = cuts[id(plans)]
        if isinstance(wide, nn.Parameter):
            made: Tensor = _leaf(wide, part)
            if part is not None and not part.aliases:
                link.gathered.append((made, wide, part))  # type: ignore[arg-type]
            elif part is not None and len(part.parts) > 1:
                link.strided.append((made, wide, part))  # type: ignore[arg-type]
        else:
            made = wide if part is None else part.of(wide)
        tensors[id(wide)] = made
        return made


def _shell(m: nn.Module) -> nn.Module:
    view = type(m).__new__(type(m))
    view.__dict__.update(m.__dict__)
    return view


def cache_attributes(m: nn.Module) -> list[str]:
    """Plain dicts in which a module may keep tensors between calls; every width needs its own."""
    return [k for k, v in vars(m).items() if type(v) is dict and not (k in _TREE or "hook" in k)]


def without_tensors(cache: dict) -> dict:
    return {k: v for k, v in cache.items() if not isinstance(v, Tensor)}


def _refers(key: str, value: Any) -> bool:
    """Whether a plain attribute points into the module tree behind PyTorch's back."""
    if key in _TREE or "hook" in key:
        return False
    if isinstance(value, nn.Module | types.MethodType | partial):
        return True
    if isinstance(value, list | tuple):
        return any(isinstance(v, nn.Module | types.MethodType) for v in value)
    return isinstance(value, dict) and any(
        isinstance(v, nn.Module | types.MethodType) for v in value.values()
    )


def _remapped(value: Any, new: Mapping[int, nn.Module]) -> Any:
    if isinstance(value, nn.Module):
        return new.get(id(value), value)
    if isinstance(value, types.MethodType) and id(value.__self__) in new:
        return types.MethodType(value.__func__, new[id(value.__self__)])
    if isinstance(value, partial):
        return partial(
            _remapped(value.func, new),
            *[_remapped(a, new) for a in value.args],
            **{k: _remapped(v, new) for k, v in value.keywords.items()},
        )
    if type(value) is list:
        return [_remapped(v, new) for v in value]
    if type(value) is tuple:
        return tuple(_remapped(v, new) for v in value)
    if type(value) is dict:
        return {k: _remapped(v, new) for k, v in value.items()}
    return value


def _set_attribute(state: dict[str, Any], rule: Any, width: Width) -> None:
    value = rule.size.at(width)
    if rule.index is None:
        state[rule.name] = value
    else:
        old = list(state[rule.name])
        old[rule.index] = value
        state[rule.name] = type(state[rule.name])(old)


def _tidy(view: nn.Module) -> None:
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


def _attach(root: nn.Module, link: Link) -> None:
    """Give the root its link: a check before forward, compact state_dicts, and copies that stand alone."""
    state = root.__dict__
    link.plain_hooks = {key: state[key] for key in _HOOKED}
    state.update({key: copy.copy(hooks) for key, hooks in link.plain_hooks.items()})
    root.register_forward_pre_hook(lambda view, args: link.prepare(view))
    root.register_state_dict_pre_hook(lambda *args: link.refresh())
    root.register_state_dict_post_hook(_compact_state)
    root.register_load_state_dict_pre_hook(lambda *args: link.refresh())
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
    link.refresh()
    memo = {} if memo is None else memo
    for b in view.buffers():
        memo[id(b)] = b.detach().clone()
    shell = _shell(view)
    state = shell.__dict__
    state.update(link.plain_hooks)
    for key in ("__deepcopy__", "__reduce_ex__", "_anywidth_link"):
        del state[key]
    if state.pop("_anywidth_compiled", False):
        del state["forward"]
    kind = type(view)
    if hasattr(kind, "__deepcopy__") or kind.__getstate__ is not nn.Module.__getstate__:
        made = copy.deepcopy(shell, memo)
    else:
        made = kind.__new__(kind)
        memo[id(view)] = made  # bound methods of the root lead here, not to another copy of the view
        made.__dict__.update(copy.deepcopy(shell.__getstate__(), memo))
    memo[id(view)] = made
    return made


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
        code.replace(co_name=f"{code.co_name}_at_width"),
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    view.__dict__["forward"] = torch.compile(types.MethodType(own, view), **{"fullgraph": True, **options})
    view.__dict__["_anywidth_compiled"] = True
    return view
