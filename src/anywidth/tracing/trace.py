"""Run the model once and write down what happens to its channels.

Two interception levels run in lock-step: below, a dispatch mode sees every ATen operation and moves labels;
above, a `TorchFunctionMode` sees the calls in the model's own code and hands it integers that remember their origin.
It is an ordinary run of real Python, so control flow, hooks and detectors are no obstacle.
"""

from __future__ import annotations

import logging
import math
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from anywidth.compat.tracing import DispatchMode, without_modes
from anywidth.errors import TraceError
from anywidth.tracing.rules import rule_for
from anywidth.tracing.shape_arguments import observe
from anywidth.tracing.symbolic_sizes import COMPARED, Attribute, DimSize, TracedInt
from anywidth.tracing.trace_state import Walk, outputs, tensors_in

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
_log = logging.getLogger(__name__)
_GUARDS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
_GEOMETRY = {
    "stride",
    "padding",
    "dilation",
    "kernel_size",
    "output_padding",
    "output_size",
}


class _Labels(DispatchMode):
    def __init__(self, walk: Walk, names: dict[int, str]) -> None:
        super().__init__()
        self.walk, self.names = walk, names

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
        out = func(*args, **kwargs)
        self.walk.depends(inputs, outputs(out), self.names)
        self.walk.operation = func.name().split(".")[0].split("::")[-1]
        rule = rule_for(func)
        if rule is not None:
            self._apply(rule, func, args, kwargs, out, inputs)
        elif any(self.walk.shadows(t) for t in inputs):
            self.walk.unknown[(self.walk.operation, self.walk.module)] = None
            for t in inputs:
                self.walk.freeze(self.walk.shadows(t), "unknown operation")
        return out

    def _apply(self, rule: Any, func: Any, args: Any, kwargs: Any, out: Any, inputs: list[Tensor]) -> None:
        """A rule that raises counts as a missing rule: what it touches is frozen and reported."""
        try:
            rule(self.walk, func, args, kwargs, out)
        except Exception as error:
            _log.warning("rule for %s failed: %s", self.walk.where, error)
            self.walk.unknown[(self.walk.operation, self.walk.module)] = None
            for t in [*inputs, *outputs(out)]:
                self.walk.freeze(self.walk.shadows(t), f"the rule failed ({type(error).__name__})")


class _Sizes(TorchFunctionMode):
    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self.walk = walk

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is torch.nn.functional.multi_head_attention_forward:
            with self:
                return _opened(func)(*args, **kwargs)
        out = func(*args, **kwargs)
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


def _traced(value: Any, module: str, name: str) -> Any:
    """`value` with its integers made traceable, or None if it holds none."""
    if isinstance(value, bool) or name in _GEOMETRY or name == "training":
        return None
    if isinstance(value, int):
        return TracedInt(value, Attribute(module, name, None, value)) if abs(value) < 2**31 else None
    plain = type(value) in (tuple, list, torch.Size) and len(value) > 0
    if plain and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
        return type(value)(TracedInt(v, Attribute(module, name, i, v)) for i, v in enumerate(value))
    return None


@contextmanager
def traced_attributes(model: nn.Module) -> Iterator[None]:
    """Integer attributes of all modules remember their name inside this context."""
    saved: list[tuple[nn.Module, str, Any]] = []
    try:
        for path, module in model.named_modules():
            for name, value in list(vars(module).items()):
                if name.startswith("_"):
                    continue
                traced = _traced(value, path, name)
                if traced is not None:
                    saved.append((module, name, value))
                    vars(module)[name] = traced
        yield
    finally:
        for module, name, value in saved:
            vars(module)[name] = value


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever the forward leaves behind (features kept by hooks, caches, running statistics) is undone."""
    # Shallow copies: the objects stay what they are, and only what modules, dicts and lists hold is put back.
    modules = list(model.modules())
    before = [dict(vars(m)) for m in modules]
    dicts = [(d, dict(d)) for m in modules for d in vars(m).values() if isinstance(d, dict)]
    lists = [(v, list(v)) for m in modules for v in vars(m).values() if type(v) is list]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        yield
    finally:
        for m, state in zip(modules, before, strict=True):
            vars(m).clear()
            vars(m).update(state)
        for d, content in dicts:
            if not _same_items(d, content):
                d.clear()
                d.update(content)
        for v, content in lists:
            if list(map(id, v)) != list(map(id, content)):
                v[:] = content
        for b, content in buffers:
            # Through `.data`, which leaves the buffer's version counter alone: its content is what it was before the trace,
            # so caches that watch the counter are still right.
            if not torch.equal(b, content):
                b.data.copy_(content)


def _same_items(a: dict, b: dict) -> bool:
    return list(a) == list(b) and list(map(id, a.values())) == list(map(id, b.values()))


@contextmanager
def following(
    model: nn.Module, enter: Callable[[nn.Module], None], leave: Callable[[], None]
) -> Iterator[None]:
    """Tell which module of `model` runs: `enter` before each forward and, if it does not fail, `leave` after it.

    By hooks on the modules, not on all modules of the process: other threads may run other models meanwhile.
    """

    def before(module: nn.Module, args: Any) -> None:
        enter(module)

    def after(module: nn.Module, args: Any, out: Any) -> None:
        leave()

    handles = []
    for m in model.modules():
        handles.append(m.register_forward_pre_hook(before, prepend=True))
        handles.append(m.register_forward_hook(after, prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _paths(model: nn.Module, walk: Walk) -> Iterator[None]:
    names = {id(m): path for path, m in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module) -> None:
        stack.append(walk.module)
        walk.module = names.get(id(module), walk.module)

    def leave() -> None:
        # After an error `following` does not call this, so `walk.module` still names the module that failed.
        walk.module = stack.pop()

    with following(model, enter, leave):
        yield


@contextmanager
def _comparisons(walk: Walk) -> Iterator[None]:
    """Equalities that the model's code checks while this context lasts."""
    equalities: list[Any] = []
    token = COMPARED.set(equalities)
    try:
        yield
    finally:
        COMPARED.reset(token)
        walk.compared += equalities


def call(model: nn.Module, example: Any) -> Any:
    """The model's output: a tuple of examples is unpacked as arguments, a dict as keywords."""
    if example is None:
        raise TraceError(
            f"example_inputs is missing: {type(model).__name__} must run once to be traced. Give a tensor, a tuple of "
            "arguments or a dict of keyword arguments."
        )
    if isinstance(example, tuple):
        return model(*example)
    return model(**example) if isinstance(example, dict) else model(example)


def trace_(walk: Walk, model: nn.Module, example: Any) -> None:
    """One forward of `model` in its present mode, added to `walk`. No parameter, buffer or random state changes."""
    tensors = dict(model.named_parameters(remove_duplicate=True)) | dict(
        model.named_buffers(remove_duplicate=True)
    )
    if not walk.ledger.blocks:
        for name, t in tensors.items():
            walk.parameter(t, name)
    names = {id(t): name for name, t in tensors.items()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        # Under inference mode composite operations reach a dispatch mode whole (linear instead of t and addmm), and the rules
        # are for their parts.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        # The fused attention kernels are one opaque operation; the math backend is matmul, softmax, matmul, for which rules exist.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(untouched(model))
        stack.enter_context(traced_attributes(model))
        stack.enter_context(_paths(model, walk))
        stack.enter_context(_comparisons(walk))
        stack.enter_context(_Sizes(walk))
        stack.enter_context(_Labels(walk, names))
        try:
            out = call(model, example)
        except TraceError:
            raise
        except Exception as error:
            message_lines = str(error).strip().splitlines()
            location = f"in module '{walk.module}'" if walk.module else "in the model itself"
            raise TraceError(
                f"{type(model).__name__} failed on its example inputs {location}: {type(error).__name__}: "
                f"{message_lines[0] if message_lines else ''}. Give example_inputs with which model(*example_inputs) works (a tensor, a tuple of arguments or a dict)."
            ) from error
    walk.module, walk.operation = "", "the output"
    for t in tensors_in(out):
        walk.freeze(walk.shadows(t), "output of the model")


def trace(model: nn.Module, example: Any) -> Walk:
    """Trace in evaluation mode, then once more in training mode if parts of the model were not reached."""
    walk = Walk()
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        trace_(walk, model, example)
        missed = {n for n, _ in model.named_parameters()} - walk.used
        if missed:
            _trace_training_(walk, model, example)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return walk


def _trace_training_(walk: Walk, model: nn.Module, example: Any) -> None:
    """Auxiliary heads run in training only; a model that cannot train on the example keeps them frozen."""
    before = len(walk.contractions)
    model.train()
    try:
        trace_(walk, model, example)
    except TraceError:
        return
    finally:
        del walk.contractions[before:]


def example_tensors(example: Any) -> Sequence[Tensor]:
    return tensors_in(example)
