"""Calling a module of a view: without hooks, that is its forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from anywidth.views.base import Live
from anywidth.views.leaf_readers import reader_of

_MODULE_CALL = nn.Module.__call__


def call_module(self: Any, *args: Any, **kwargs: Any) -> Any:
    """What calling a module does: without hooks, its forward. Looking for them costs more in `nn.Module`, where every module of
    the network pays for it.
    """
    # The conditions are those under which nn.Module._call_impl itself goes straight to forward, and what is the view's own.
    if not torch.compiler.is_compiling():
        state = self.__dict__
        if not (
            state["_forward_hooks"]
            or state["_forward_pre_hooks"]
            or state["_backward_hooks"]
            or state["_backward_pre_hooks"]
            or self._view_own
            or self._view_compiled is not None
            or "forward" in state
            or _global_forward_hooks
            or _global_forward_pre_hooks
            or _global_backward_hooks
            or _global_backward_pre_hooks
            or nn.Module.__call__ is not _MODULE_CALL  # torch.fx looks at calls so
            or torch._C._get_tracing_state()
        ):
            if self._view_leaf and not (state["training"] or torch.is_grad_enabled() or self._view_given):
                reader = reader_of(self)
                if reader is not None:
                    return self._view_kind.forward(reader, *args, **kwargs)
            return self._view_kind.forward(self, *args, **kwargs)
    return super(Live, self).__call__(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


CALLS = (nn.Module._call_impl.__code__, call_module.__code__)
