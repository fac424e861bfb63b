"""Tensors that modules compute from others before, or while, they run: old hooks of `nn.utils`, pruning masks, parametrizations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from anywidth.compat.module_state import forward_pre_hooks_of


def recomputed_tensors(module: nn.Module) -> dict[str, Callable[[nn.Module], Tensor]]:
    """Attribute -> the function by which a hook computes it from the tensors of a module, before each forward.

    `weight_norm(conv)`: {"weight": g v / |v|}, computed from the parameters `weight_g` and `weight_v`. The hooks are found by
    their classes, which torch does not document, and a pruning method tells in no public attribute which tensor it prunes.
    """
    tensors: dict[str, Callable[[nn.Module], Tensor]] = {}
    for hook in forward_pre_hooks_of(module).values():
        if isinstance(hook, WeightNorm):
            tensors[hook.name] = hook.compute_weight
        elif isinstance(hook, SpectralNorm):
            tensors[hook.name] = _normalised(hook)
        elif isinstance(hook, BasePruningMethod):
            tensors[hook._tensor_name] = hook.apply_mask
    return tensors


def _normalised(hook: SpectralNorm) -> Callable[[nn.Module], Tensor]:
    return lambda module: hook.compute_weight(module, do_power_iteration=False)


_PROPERTY = "_inject_property.<locals>.get_parametrized"


def parametrized_names(module_class: type) -> list[str]:
    """Tensors that a class made by torch for one parametrized module computes. It has a property for each, with a closure over
    that module: under `parametrize.cached()` a subclass or a copy would be given what that module computed.
    """
    properties = {n: v.fget for n, v in vars(module_class).items() if isinstance(v, property)}
    return [n for n, getter in properties.items() if getattr(getter, "__qualname__", "") == _PROPERTY]


def parametrized_property(name: str) -> property:
    """What torch's property of a parametrized tensor does, for the module that is asked."""

    def get(self: Any) -> Tensor:
        compute: Any = self.parametrizations[name]
        if not parametrize._cache_enabled:
            return compute()
        key = (id(self), name)
        cache: dict[Any, Any] = parametrize._cache
        if key not in cache:
            cache[key] = compute()
        return cache[key]

    def put(self: Any, value: Tensor) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, put)


def own_parametrized_class_(module: nn.Module) -> None:
    """Give a copy of a parametrized module a class of its own.

    Torch makes a class for each module that it parametrizes, and copies share it: `remove_parametrizations` on a copy takes the
    property of that class away, from the original too.
    """
    kind = type(module)
    names = parametrized_names(kind)
    if names:
        kept = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__", *names)}
        metaclass: Any = type(kind)
        module.__class__ = metaclass(kind.__name__, kind.__bases__, kept)
        for name in names:
            parametrize._inject_property(module, name)


def forget_cached_weights_(modules: Iterable[nn.Module]) -> None:
    """Under `parametrize.cached()`, weights are cached by the id of their module: new ones may have the ids of others, long gone."""
    if parametrize._cache:
        new = {id(m) for m in modules}
        for key in [k for k in parametrize._cache if k[0] in new]:
            del parametrize._cache[key]


@contextmanager
def no_cached_weights() -> Iterator[None]:
    """Under `parametrize.cached()`, nothing is known yet inside this context, and nothing of it is known after.

    Weights are cached by the id of their module, and a view that comes later may get the id of one that is gone. Torch can
    only turn the cache off by leaving its own context.
    """
    before = dict(parametrize._cache)
    parametrize._cache.clear()
    try:
        yield
    finally:
        parametrize._cache.clear()
        parametrize._cache.update(before)
