"""The two modes under which a model is traced: labels below every operation, sizes above the calls in the model's code."""

from __future__ import annotations

import logging
import math
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anywidth.compat.tracing import (
    RECURRENT,
    DispatchMode,
    attention_by_parts,
    is_mutable,
    is_random,
    without_modes,
    written_tensors,
)
from anywidth.tracing.derived_numbers import scaled
from anywidth.tracing.model_outputs import tensors_in
from anywidth.tracing.recurrence import in_steps
from anywidth.tracing.rules import rule_for
from anywidth.tracing.shape_arguments import observe
from anywidth.tracing.symbolic_sizes import DimSize, TracedInt
from anywidth.tracing.trace_state import Walk, outputs
from anywidth.tracing.unit_vectors import follow

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
_log = logging.getLogger(__name__)
_GUARDS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_FEATURE_DROPOUT = {"dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "feature_dropout"}
_RESHAPES_IN_PLACE = {
    f"aten::{n}_" for n in ("squeeze", "unsqueeze", "t", "transpose", "swapaxes", "swapdims")
}


class LabelMode(DispatchMode):
    """Moves labels with every operation.

    Args:
        walk: is added to.
        names: id of a tensor of the model -> its name.
        before_write: is called with what an operation is about to write to, and gives the parameters that this changes.
    """

    def __init__(
        self,
        walk: Walk,
        names: dict[int, str],
        before_write: Callable[[Tensor], list[Tensor]] = lambda t: [],
    ) -> None:
        super().__init__()
        self.walk, self.names, self.before_write = walk, names, before_write

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [
            t
            for a in [*args, *kwargs.values()]
            for t in (outputs(a) if isinstance(a, list | tuple | Tensor) else [])
        ]
        for t in inputs:
            if id(t) in self.names:
                self.walk.used.add(self.names[id(t)])
        if is_mutable(func):
            for t in written_tensors(func, args, kwargs):
                self.walk.overwritten.update(
                    self.names[id(p)] for p in self.before_write(t) if id(p) in self.names
                )
        self.walk.random |= is_random(func)
        before = self._before_reshape(func, args)
        out = func(*args, **kwargs)
        if before is not None:
            args = (before, *args[1:])
        self.walk.depends(inputs, outputs(out), self.names)
        self.walk.computed(inputs, outputs(out))
        namespace, _, operation = func.name().split(".")[0].partition("::")
        self.walk.operation = operation if namespace in ("aten", "prims") else f"{namespace}::{operation}"
        self.walk.use(inputs)
        self.walk.opaque.enter(inputs)
        rule = rule_for(func)
        if rule is not None:
            self._apply(rule, func, args, kwargs, out, inputs)
            follow(self.walk, self.walk.operation, args, kwargs, out)
        elif any(self.walk.shadows(t) for t in inputs):
            self._unknown(inputs, outputs(out), "unknown operation")
        self.walk.opaque.leave(t for t in outputs(out) if not self.walk.shadows(t))
        return out

    def _before_reshape(self, func: Any, args: Any) -> Tensor | None:
        """A tensor whose shape is about to change in place, as it is now: the rules want the shape that its labels have."""
        if func.name().split(".")[0] not in _RESHAPES_IN_PLACE:
            return None
        alias = args[0].detach()
        self.walk.set(alias, self.walk.shadows(args[0]))
        return alias

    def _unknown(self, inputs: list[Tensor], outs: list[Tensor], reason: str) -> None:
        self.walk.unknown[(self.walk.operation, self.walk.module)] = None
        for t in [*inputs, *outs]:
            self.walk.freeze(self.walk.shadows(t), reason)
        results = [t for t in outs if not any(t is i for i in inputs)]
        self.walk.opaque.add(results, self.walk.where)

    def _apply(self, rule: Any, func: Any, args: Any, kwargs: Any, out: Any, inputs: list[Tensor]) -> None:
        """A rule that raises counts as a missing rule: what it touches is frozen and reported."""
        try:
            rule(self.walk, func, args, kwargs, out)
        except Exception as error:
            _log.warning("rule for %s failed: %s", self.walk.where, error)
            self._unknown(inputs, outputs(out), f"the rule failed ({type(error).__name__})")


class SizeMode(TorchFunctionMode):
    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self.walk = walk

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # "view.default" of an exported graph is a view.
        name = getattr(func, "__name__", "").partition(".")[0]
        if func is torch.nn.functional.multi_head_attention_forward:
            with self:
                return _opened(func)(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            # The fused kernels are one opaque operation; this one is matmul, softmax, matmul, for which rules exist.
            with without_modes():
                scaled(self.walk, name, args, kwargs)
            return attention_by_parts(*args, **kwargs)
        out = self._run(func, name, args, kwargs)
        if func == _SHAPE:
            return self._sizes(args[0], out)
        if name == "size":
            if isinstance(out, torch.Size):
                return self._sizes(args[0], out)
            dim = args[1] if len(args) > 1 else kwargs["dim"]
            return self._sizes(args[0], args[0].shape)[dim]
        if name in ("numel", "nelement", "__len__") and args[0].ndim:
            sizes = self._sizes(args[0], args[0].shape)
            return sizes[0] if name == "__len__" else math.prod(sizes)
        self.walk.operation = name
        # The handlers compute with labels, in torch; seen by the modes they would count as part of the model.
        with without_modes():
            self._observe(name, args, kwargs, out)
        return out

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if func in RECURRENT and not kwargs:
            return in_steps(func, args)
        if name in _FEATURE_DROPOUT:
            # It draws numbers for (N, C), which would meet the channels as an unknown constant.
            return args[0] if name.endswith("_") else args[0].clone()
        return func(*args, **kwargs)

    def _observe(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        try:
            observe(self.walk, name, args, kwargs, out)
        except Exception as error:
            _log.warning("sizes of %s not understood: %s", self.walk.where, error)
            self.walk.unknown[(name, self.walk.module)] = None
            for t in [*tensors_in(args), *tensors_in(out)]:
                self.walk.freeze(self.walk.shadows(t), f"sizes not understood ({type(error).__name__})")

    def _sizes(self, t: Tensor, shape: torch.Size) -> torch.Size:
        if not self.walk.shadows(t):
            return shape
        sizes = [self.walk.size(t, d) for d in range(t.ndim)]
        return torch.Size(
            [TracedInt(n, s) if isinstance(s, DimSize) else n for n, s in zip(shape, sizes, strict=True)]
        )


def _opened(func: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a Python function of torch whose entry does not hand over to the function mode: its body is traced."""
    # Each torch function starts with `if has_torch_function(...): return handle_torch_function(...)`, which with a mode on
    # leads straight back to the mode. With guards that always say no, the body runs and its calls reach the mode.
    scope = dict(func.__globals__) | {g: lambda *a: False for g in _GUARDS}
    copy = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy
