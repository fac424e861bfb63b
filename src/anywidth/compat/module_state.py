"""Where `nn.Module` keeps its tensors, children and hooks.

The public ways to them do something else than what is needed here: `getattr(module, name)` and `named_parameters()` ask the
module's class, where a view answers for its own width; they pass over what is None, and give copies that cannot be written.
Torch would have to offer the registries themselves: `module.parameter_registry`, say.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, MutableMapping
from typing import Any

from torch import Tensor, nn

PARAMETERS = "_parameters"
BUFFERS = "_buffers"
MODULES = "_modules"
"""Keys of a module's `__dict__`: name -> parameter, buffer or child, None where one is registered but absent.

`module.__dict__[PARAMETERS]` is the registry of the wide module also where the module is a view's, which shares that
`__dict__`; and it is what a module with thousands of siblings is asked at every call, at the cost of a look into a dict.
"""
TENSOR_REGISTRIES = (PARAMETERS, BUFFERS)
REGISTRIES = (MODULES, PARAMETERS, BUFFERS)

parameters_of: Callable[[nn.Module], MutableMapping[str, Any]] = operator.attrgetter(PARAMETERS)
"""The parameters of a module by name, None among them, to read and to write; of a view's module, those of its width."""
buffers_of: Callable[[nn.Module], MutableMapping[str, Tensor | None]] = operator.attrgetter(BUFFERS)
"""The buffers of a module by name, None among them, to read and to write; of a view's module, those of its width."""
children_of: Callable[[nn.Module], MutableMapping[str, nn.Module | None]] = operator.attrgetter(MODULES)
"""The children of a module by name. `named_children()` names a child once that has two names, and passes over None."""


def tensors_of(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers of a model, those of several modules as often.

    `model.parameters()` makes the name of each, which takes several times as long; a build asks ten times.
    """
    modules = dict.fromkeys([model])
    queue = [model]
    for module in queue:
        children = [c for c in children_of(module).values() if c is not None and c not in modules]
        modules.update(dict.fromkeys(children))
        queue += children
    registries = [registry for m in queue for registry in (parameters_of(m), buffers_of(m))]
    return [t for registry in registries for t in registry.values() if t is not None]


FORWARD_HOOKS = "_forward_hooks"
FORWARD_PRE_HOOKS = "_forward_pre_hooks"
BACKWARD_HOOKS = "_backward_hooks"
BACKWARD_PRE_HOOKS = "_backward_pre_hooks"
"""Keys of a module's `__dict__`: number -> hook. A hook can be registered in public, but not looked for."""

forward_hooks_of: Callable[[nn.Module], MutableMapping[int, Callable[..., Any]]] = operator.attrgetter(
    FORWARD_HOOKS
)
"""The hooks after a module's forward. `RemovableHandle` removes a hook, but only whoever registered it holds the handle."""
forward_pre_hooks_of: Callable[[nn.Module], MutableMapping[int, Callable[..., Any]]] = operator.attrgetter(
    FORWARD_PRE_HOOKS
)
"""The hooks before a module's forward."""

HOOK_REGISTRIES = tuple(
    name for name in vars(nn.Module()) if name.endswith(("_hooks", "_with_kwargs", "_called"))
)
"""Every registry of hooks: a module with hooks of its own beside another's has all of them twice."""
HOOK_REGISTRATIONS = tuple(
    name for name in vars(nn.Module) if name.lstrip("_").startswith("register") and "hook" in name
)
"""The methods that add to them; torch and tools call the private ones (`_register_state_dict_hook`) on modules of others."""

COMPILED_CALL = "_compiled_call_impl"
"""What `module.compile()` leaves on a module, and what its calls then run instead of `forward`."""
STANDARD_ATTRIBUTES = frozenset(vars(nn.Module())) | {"forward", COMPILED_CALL}
"""What `nn.Module` itself keeps in a `__dict__`; everything else there is the model's own."""
