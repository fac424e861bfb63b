"""Calling a module of a view: without hooks, that is its forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from anywidth.compat.module_calls import (
    GLOBAL_BACKWARD_HOOKS,
    GLOBAL_BACKWARD_PRE_HOOKS,
    GLOBAL_FORWARD_HOOKS,
    GLOBAL_FORWARD_PRE_HOOKS,
    MODULE_CALL_CODE,
    jit_tracing_state,
)
from anywidth.compat.module_state import BACKWARD_HOOKS, BACKWARD_PRE_HOOKS, FORWARD_HOOKS, FORWARD_PRE_HOOKS
from anywidth.views.base import Live
from anywidth.views.leaf_readers import reader_of

_MODULE_CALL = nn.Module.__call__


def call_module(self: Any, *args: Any, **kwargs: Any) -> Any:
    """What calling a module does: without hooks, its forward. Looking for them costs more in `nn.Module`, where every module of
    the network pays for it.
    """
    # The conditions are those under which a call of nn.Module itself goes straight to forward, and what is the view's own.
    if not torch.compiler.is_compiling():
        state = self.__dict__
        if not (
            state[FORWARD_HOOKS]
            or state[FORWARD_PRE_HOOKS]
            or state[BACKWARD_HOOKS]
            or state[BACKWARD_PRE_HOOKS]
            or self._view_own
            or self._view_compiled is not None
            or "forward" in state
            or GLOBAL_FORWARD_HOOKS
            or GLOBAL_FORWARD_PRE_HOOKS
            or GLOBAL_BACKWARD_HOOKS
            or GLOBAL_BACKWARD_PRE_HOOKS
            or nn.Module.__call__ is not _MODULE_CALL  # torch.fx looks at calls so
            or jit_tracing_state()
        ):
            if self._view_leaf and not (state["training"] or torch.is_grad_enabled() or self._view_given):
                reader = reader_of(self)
                if reader is not None:
                    return self._view_kind.forward(reader, *args, **kwargs)
            return self._view_kind.forward(self, *args, **kwargs)
    return super(Live, self).__call__(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]


CALLS = (MODULE_CALL_CODE, call_module.__code__)
