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
from torch.utils.weak import WeakIdKeyDictionary

from anywidth.compat.layers import Convolution
from anywidth.errors import TraceError
from anywidth.tracing.meta_answers import answers_on_meta
from anywidth.tracing.model_outputs import FreeOutputs, free_names, named_tensors
from anywidth.tracing.modes import LabelMode, SizeMode
from anywidth.tracing.opaque_modules import boundaries, freeze_opaque_, open_modules
from anywidth.tracing.random_state import random_state_kept
from anywidth.tracing.refusals import failed_call
from anywidth.tracing.symbolic_sizes import COMPARED, READ_AS_FLOAT, Expression
from anywidth.tracing.trace_state import Walk
from anywidth.tracing.traced_attributes import traced_attributes
from anywidth.tracing.training_mode import has_one_mode, mode_kept, set_mode_
from anywidth.tracing.untouched import Snapshot, graphs_kept, untouched
from anywidth.tracing.unvisited import Visits, beside, unvisited, visits


# Objects without a `__dict__`: a view maps its hooks at every call, and would look through all that a closure reaches.
class _Before:
    __slots__ = ("enter",)

    def __init__(self, enter: Callable[[nn.Module], None]) -> None:
        self.enter = enter

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.enter(module)


class _After:
    __slots__ = ("leave",)

    def __init__(self, leave: Callable[[], None]) -> None:
        self.leave = leave

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        self.leave()


@contextmanager
def following(
    model: nn.Module, enter: Callable[[nn.Module], None], leave: Callable[[], None]
) -> Iterator[None]:
    """Tell which module of `model` runs: `enter` before each forward and, if it does not fail, `leave` after it.

    By hooks on the modules, not on all modules of the process: other threads may run other models meanwhile.
    """

    before, after = _Before(enter), _After(leave)
    handles = []
    for m in open_modules(model).values():
        handles.append(m.register_forward_pre_hook(before, prepend=True))
        handles.append(m.register_forward_hook(after, prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _paths(model: nn.Module, walk: Walk) -> Iterator[None]:
    names = {id(m): path for path, m in open_modules(model).items()}
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
def _noticing(walk: Walk) -> Iterator[None]:
    """Equalities that the model's code checks, and integers that it makes floats of, while this context lasts."""
    equalities: list[tuple[Expression, Expression]] = []
    compared = COMPARED.set(equalities)
    read_as_float = READ_AS_FLOAT.set(walk.read_as_float)
    try:
        yield
    finally:
        READ_AS_FLOAT.reset(read_as_float)
        COMPARED.reset(compared)
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


def trace_(
    walk: Walk,
    model: nn.Module,
    example: Any,
    free_outputs: FreeOutputs = (),
    snapshot: Snapshot | None = None,
) -> None:
    """One forward of `model` in its present mode, added to `walk`. No parameter, buffer or random state changes."""
    tensors = dict(model.named_parameters(remove_duplicate=True)) | dict(
        model.named_buffers(remove_duplicate=True)
    )
    if not walk.ledger.blocks:
        kernels = _kernels(model)
        for name, t in tensors.items():
            walk.parameter(t, name, axes=2 if t in kernels else t.ndim)
    names = {id(t): name for name, t in tensors.items()}
    walk.names, walk.buffers = names, {n for n, _ in model.named_buffers()}
    with ExitStack() as stack:
        stack.enter_context(random_state_kept(model, lambda: walk.random))
        # Under inference mode composite operations reach a dispatch mode whole (linear instead of t and addmm), and the rules
        # are for their parts.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        before_write = stack.enter_context(untouched(model, snapshot)).before_write
        stack.enter_context(traced_attributes(model))
        stack.enter_context(boundaries(walk, model))
        stack.enter_context(_paths(model, walk))
        stack.enter_context(_noticing(walk))
        stack.enter_context(answers_on_meta(model, example, lambda: walk.module))
        stack.enter_context(SizeMode(walk))
        stack.enter_context(LabelMode(walk, names, before_write))
        try:
            out = call(model, example)
        except TraceError:
            raise
        except Exception as error:
            raise failed_call(model, example, walk.module, error) from error
    freeze_opaque_(walk, model)
    walk.module, walk.operation = "", "the output"
    _keep_outputs(walk, out, free_outputs)


def _keep_outputs(walk: Walk, out: Any, free_outputs: FreeOutputs) -> None:
    """Channels of outputs stay, but for those that may shrink."""
    free = free_names(out, free_outputs, walk.free_outputs)
    walk.free_outputs |= free
    tensors = [(name, t) for name, t in named_tensors(out) if name not in free]
    if walk.output_shapes is None:
        walk.output_shapes = [tuple(t.shape) for _, t in tensors]
    for name, t in tensors:
        walk.use([t])
        for shadow in walk.shadows(t):
            walk.ledger.freeze(shadow, "output of the model", name or "its only one")


def trace(
    model: nn.Module, example: Any, free_outputs: FreeOutputs = (), snapshot: Snapshot | None = None
) -> Walk:
    """Trace in evaluation mode, then once more in training mode if parts of the model were not reached.

    Args:
        free_outputs: what may shrink among the outputs (see `anywidth.tracing.model_outputs`).
        snapshot: of the model, which is put back after each run.
    """
    walk = Walk()
    snapshot = snapshot or Snapshot(model)
    with graphs_kept(model), mode_kept(model):
        set_mode_(model, False)
        with visits(walk, model) as record:
            trace_(walk, model, example, free_outputs, snapshot)
        missed = {n for n, _ in model.named_parameters()} - walk.used
        if missed and not has_one_mode(model):
            _trace_training_(walk, model, example, free_outputs, snapshot)
            _trace_unvisited_(walk, model, example, record, free_outputs, snapshot)
    return walk


def _trace_training_(
    walk: Walk, model: nn.Module, example: Any, free_outputs: FreeOutputs, snapshot: Snapshot
) -> None:
    """Auxiliary heads run in training only; a model that cannot train on the example keeps them frozen."""
    before = len(walk.contractions)
    set_mode_(model, True)
    try:
        trace_(walk, model, example, free_outputs, snapshot)
    except TraceError:
        return
    finally:
        del walk.contractions[before:]


def _trace_unvisited_(
    walk: Walk, model: nn.Module, example: Any, record: Visits, free_outputs: FreeOutputs, snapshot: Snapshot
) -> None:
    """Experts that the example did not visit run beside one that it did; they cost nothing, as in the example."""
    pairs = unvisited(walk, model, record)
    if not pairs:
        return
    before = len(walk.contractions)
    set_mode_(model, False)
    try:
        with beside(walk, pairs):
            trace_(walk, model, example, free_outputs, snapshot)
    finally:
        del walk.contractions[before:]
