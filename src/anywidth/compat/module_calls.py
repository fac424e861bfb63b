"""What `nn.Module.__call__` looks at before it runs a forward, for calls that look themselves.

`nn.Module.__call__` is the public way, and costs more than the forward of a small layer. A call that goes straight to the
forward must look at everything that torch looks at, and torch has public names for none of it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

GLOBAL_FORWARD_HOOKS = _global_forward_hooks
GLOBAL_FORWARD_PRE_HOOKS = _global_forward_pre_hooks
GLOBAL_BACKWARD_HOOKS = _global_backward_hooks
GLOBAL_BACKWARD_PRE_HOOKS = _global_backward_pre_hooks
"""The hooks of all modules, that `register_module_forward_hook` and its like fill: the dicts themselves, never replaced."""

jit_tracing_state = torch._C._get_tracing_state
"""What `torch.jit.trace` is recording into, None outside of it. `torch.jit.is_tracing()` is public and tells the same through
two Python functions, at twice the cost, and this is asked at every call of every module."""

MODULE_CALL_CODE = nn.Module._call_impl.__code__
"""The code that runs when a module is called: a frame with this code is a call of a module."""


def has_plain_call(module_class: type[nn.Module]) -> bool:
    """Whether calling a module of this class does what `nn.Module` does, as neither the call nor its body is overridden.

    `nn.Module.__call__` only hands on to a private method, which classes that change what a call does override.
    """
    return module_class.__call__ is nn.Module.__call__ and module_class._call_impl is nn.Module._call_impl
