"""Compiling views, each width with a cache of graphs of its own."""

from __future__ import annotations

import inspect
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from anywidth.errors import TraceError
from anywidth.views.attributes import prepare_
from anywidth.views.base import Live


def compile_(view: Any, **options: Any) -> nn.Module:
    """Compile a view's forward in place, so that widths do not compete for one cache.

    `torch.compile` keeps a few graphs per code object and then runs eagerly without a word. `isolate_recompiles` gives every
    call a cache of its own; torch that has no such option needs a code object of its own, which also keeps dynamo from skipping
    the frames of torch's own modules.
    """
    model_forward = _model_forward(view)
    if not isinstance(model_forward, types.FunctionType):
        raise TraceError(
            f"{type(view).__name__}.forward is not a Python function and cannot be compiled per width."
        )
    function = _renamed(model_forward)
    if _isolates():
        options = {"isolate_recompiles": True, **options}
    compiled = torch.compile(types.MethodType(function, view), **{"fullgraph": True, **options})
    for m in view.modules():
        if isinstance(m, Live):
            prepare_(m, methods=True)
    view._view_compiled = _Compiled(view, compiled)
    return view


class _Compiled:
    """A compiled forward. What must be looked at before every call is looked at here: outside of the graph."""

    def __init__(self, view: nn.Module, compiled: Any) -> None:
        self.view, self.compiled = weakref.ref(view), compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            view = self.view()
            assert view is not None
            _check(view)
        return self.compiled(*args, **kwargs)


def _check(view: nn.Module) -> None:
    """Everything that an eager forward checks on its way.

    Raises:
        StaleViewError: modules were added or removed.
        StatisticsError: a norm in evaluation mode has no statistics.
    """
    for m in view.modules():
        if isinstance(m, Live):
            prepare_(m, methods=True)
            if m._view_norm is not None and not m.training:
                m._view_norm.require(m)
    packs = cast(Live, view)._view_shared.packs
    if packs is not None and torch.is_grad_enabled():
        packs.learnt += 1


@contextmanager
def eagerly(view: Any) -> Iterator[None]:
    """A view, compiled or not, runs as it is written inside."""
    compiled = view._view_compiled if isinstance(view, Live) else None
    if compiled is None:
        yield
        return
    view._view_compiled = None
    try:
        yield
    finally:
        view._view_compiled = compiled


def is_compiled(view: Any) -> bool:
    """Whether `compile_` was called for a view."""
    return view._view_compiled is not None


def _isolates() -> bool:
    """Whether `torch.compile` can keep the graphs of every call apart."""
    return "isolate_recompiles" in inspect.signature(torch.compile).parameters


def _model_forward(view: Any) -> Any:
    return inspect.getattr_static(view._view_kind, "forward", None)


def _renamed(forward: types.FunctionType) -> types.FunctionType:
    """The same function under a code object of its own."""
    # Not under torch's own file name: dynamo skips the frames of its own modules (nn.Sequential).
    function = types.FunctionType(
        forward.__code__.replace(co_name=f"{forward.__code__.co_name}_at_width", co_filename="<anywidth>"),
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    function.__kwdefaults__ = forward.__kwdefaults__
    return function
