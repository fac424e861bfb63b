"""Run the model once and write down what happens to its channels.

Two interception levels run in lock-step: below, a dispatch mode sees every ATen operation and moves labels;
above, a `TorchFunctionMode` sees the calls in the model's own code and hands it integers that remember their origin.
It is an ordinary run of real Python, so control flow, hooks and detectors are no obstacle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.weak import WeakIdKeyDictionary

from anywidth.compat.layers import Convolution
from anywidth.errors import TraceError
from anywidth.tracing.modes import LabelMode, SizeMode
from anywidth.tracing.symbolic_sizes import COMPARED, Attribute, TracedInt
from anywidth.tracing.trace_state import Walk, tensors_in
from anywidth.tracing.unvisited import Visits, beside, unvisited, visits

_GEOMETRY = {"stride", "padding", "dilation", "kernel_size", "output_padding", "output_size"}


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


def _kernels(model: nn.Module) -> WeakIdKeyDictionary:
    """Weights of convolutions, and what a parametrisation makes them from: their axes after the second are space, not channels."""
    kernels = WeakIdKeyDictionary()
    for m in model.modules():
        if isinstance(m, Convolution):
            ndim = 2 + len(m.kernel_size)
            kernels.update(
                {t: True for t in m.parameters() if t.ndim == ndim and t.shape[2:] == m.kernel_size}
            )
    return kernels


def trace_(walk: Walk, model: nn.Module, example: Any) -> None:
    """One forward of `model` in its present mode, added to `walk`. No parameter, buffer or random state changes."""
    tensors = dict(model.named_parameters(remove_duplicate=True)) | dict(
        model.named_buffers(remove_duplicate=True)
    )
    if not walk.ledger.blocks:
        kernels = _kernels(model)
        for name, t in tensors.items():
            walk.parameter(t, name, axes=2 if t in kernels else t.ndim)
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
        stack.enter_context(SizeMode(walk))
        stack.enter_context(LabelMode(walk, names))
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
    output_tensors = tensors_in(out)
    walk.use(output_tensors)
    for t in output_tensors:
        walk.freeze(walk.shadows(t), "output of the model")


def trace(model: nn.Module, example: Any) -> Walk:
    """Trace in evaluation mode, then again, in training mode and beside siblings, if parts of the model were not reached."""
    walk = Walk()
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        with visits(walk, model) as record:
            trace_(walk, model, example)
        missed = {n for n, _ in model.named_parameters()} - walk.used
        if missed:
            _trace_training_(walk, model, example)
            _trace_unvisited_(walk, model, example, record)
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


def _trace_unvisited_(walk: Walk, model: nn.Module, example: Any, record: Visits) -> None:
    """Experts that the example did not visit run beside one that it did; they cost nothing, as in the example."""
    pairs = unvisited(walk, model, record)
    if not pairs:
        return
    before = len(walk.contractions)
    model.eval()
    try:
        with beside(walk, pairs):
            trace_(walk, model, example)
    finally:
        del walk.contractions[before:]
