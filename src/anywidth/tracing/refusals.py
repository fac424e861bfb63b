"""Models and example inputs that cannot be traced, and what to do about each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from anywidth.compat.module_state import tensors_of
from anywidth.errors import TraceError
from anywidth.tracing.model_outputs import tensors_in
from anywidth.tracing.opaque_modules import kind_of_opaque

_SOURCES = {
    "scripted module": "Give the nn.Module that it was made from, and script a copy: torch.jit.script(net.extract(width)).",
    "quantised module": "Give the model of floating-point weights, and quantise a copy: net.extract(width).",
}


def check_model(model: nn.Module) -> None:
    """Refuse a model whose parameters cannot be cut, before anything looks at it.

    Raises:
        TraceError: with the way out.
    """
    kind = kind_of_opaque(model)
    if kind is not None:
        raise TraceError(
            f"{type(model).__name__} is a {kind}: nothing in it can be narrowed. {_SOURCES.get(kind, '')}"
        )
    if next(model.parameters(), None) is None:
        raise TraceError(
            f"{type(model).__name__} has no parameters, so it has no channels that could be left out. Give the model that holds the "
            "layers (was it wrapped in a function, or are its layers in a plain list instead of nn.ModuleList?)."
        )
    if not any(map(is_lazy, tensors_of(model))):
        return
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        lazy = [n for n, t in _tensors_of(module) if is_lazy(t)]
        if lazy:
            raise TraceError(
                f"'{f'{path}.{lazy[0]}'.lstrip('.')}' of {type(module).__name__} has no shape before the first forward, which would change the model. Run the model once "
                "first: model(*example_inputs); then aw.Elastic(model, example_inputs)."
            )


def _tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def failed_call(model: nn.Module, example: Any, path: str, error: Exception) -> TraceError:
    """What to say of a model that fails on its example inputs."""
    lines = str(error).strip().splitlines()
    place = f"in module '{path}'" if path else "in the model itself"
    return TraceError(
        f"{type(model).__name__} failed on its example inputs {place}: {type(error).__name__}: {lines[0] if lines else ''}. "
        f"It was called with {_described(example)}{_contrast(model, example)}. Give example_inputs with which model(*example_inputs) "
        "works (a tensor, a tuple of arguments or a dict)."
    )


def _described(example: Any) -> str:
    """A call in words: "2 arguments: float32 (1, 3), int64 (1, 7)"."""
    if isinstance(example, dict):
        return (
            f"the keywords {', '.join(map(str, example))}: {_shapes(example)}" if example else "no arguments"
        )
    arguments = example if isinstance(example, tuple) else (example,)
    count = len(arguments)
    if count == 0:
        return "no arguments"
    return f"{count} argument{'s' if count > 1 else ''}: {_shapes(arguments)}"


def _shapes(value: Any) -> str:
    tensors = tensors_in(value)
    named = [f"{_dtype(t)} {tuple(t.shape)} on {t.device}" for t in tensors[:4]]
    return ", ".join([*named, *(["..."] if len(tensors) > 4 else [])]) or "no tensors"


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")


def _contrast(model: nn.Module, example: Any) -> str:
    """What the model is, where the example is of another device or type."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return ""
    other = [
        t
        for t in tensors_in(example)
        if t.device != weight.device or (t.is_floating_point() and t.dtype != weight.dtype)
    ]
    return f"; the model is {_dtype(weight)} on {weight.device}" if other else ""
