"""The modules of a view: they read the wide network at the time of use.

    wide   Conv2d   __dict__ = {kernel_size: 3, hooks: {...}, out_channels: 8, parameters: {weight: (8, 4, 3, 3)}}
    view   Conv2d   __dict__ = the same dict object
                    slots    = out_channels: 4, what is cut (weight: (4, 2, 3, 3)), its children, its norms

A view's module is of a subclass of the wide module's class and shares its `__dict__`, so attributes, flags, buffers and hooks
are the wide module's current ones and cost nothing. What differs is a data descriptor of the class, which Python asks before
the `__dict__`: narrow integers are slots; tensors are cut out of the wide tensor, in the graph; attributes that reach modules
are mapped into the view. What is written to a view stays in `_view_own`, under a subclass that reads it there.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, MutableMapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from anywidth.compat.distributed import FSDP_STATE, fsdp_state_of
from anywidth.compat.layers import FLAT_WEIGHTS
from anywidth.compat.module_state import BUFFERS, COMPILED_CALL, HOOK_REGISTRATIONS, MODULES, PARAMETERS
from anywidth.compat.moving import MOVE
from anywidth.compat.state_dicts import SAVE
from anywidth.views.attributes import attributes_of
from anywidth.views.base import MISSING, Live, own_of_width, refuse, restructured
from anywidth.views.hooks import own_hooks_
from anywidth.views.leaf_readers import HELD
from anywidth.views.parameters import ViewParameter, plain
from anywidth.views.standalone import standalone
from anywidth.views.temporary_tensors import hold_, touched_
from anywidth.views.writing import TensorMapping, write_buffer, write_parameter


class ViewModule(Live):
    """Mixed in before the wide module's class."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Models make modules of their own class (`sequential[:2]`): those are ordinary ones."""
        return cls._view_kind(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Views do not register themselves where subclasses of the user's classes do."""

    # --- reading ------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        child = self._view_children.get(name)
        if child is not None:
            if self._view_wide.__dict__[MODULES].get(name) is not self._view_expected.get(name):
                raise restructured(self)
            return child
        if name in self._view_children:
            return None
        if name in self._view_given:
            return self._view_given[name]
        if name in self._view_wide.__dict__[MODULES]:
            raise restructured(self)
        return super().__getattr__(name)  # pyright: ignore[reportAttributeAccessIssue]

    def extra_repr(self) -> str:
        """The model's own text, of the narrow sizes also where it is made from the `__dict__`."""
        plain = object.__new__(type(self._view_wide))
        plain.__dict__.update(attributes_of(self) | {PARAMETERS: dict(TensorMapping(self, PARAMETERS))})
        return plain.extra_repr()

    # --- writing ------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        static = inspect.getattr_static(type(self), name, None)
        if isinstance(static, types.MemberDescriptorType):  # a narrow integer, or one of ours
            object.__setattr__(self, name, value)
            if not name.startswith("_view_"):
                self._view_packs.pop(HELD, None)
                touched_(self)
            return
        if name in FLAT_WEIGHTS and isinstance(self, nn.RNNBase):
            return  # it keeps them to see changes; a view takes them anew at every call
        state = self._view_wide.__dict__
        if isinstance(value, nn.Module) or name in self._view_children:
            self._view_children[name] = self._view_own[name] = value
            touched_(self)
        elif name in state[PARAMETERS] or isinstance(value, nn.Parameter):
            write_parameter(self, name, value)
        elif name in state[BUFFERS]:
            write_buffer(self, name, value)
        elif hasattr(inspect.getattr_static(type(self._view_wide), name, None), "__set__"):
            object.__setattr__(self, name, value)  # a property of the model's own
        else:
            hold_(self, name, value)
            touched_(self)

    def __delattr__(self, name: str) -> None:
        if name in self._view_own and name not in self._view_children:
            del self._view_own[name]
            return
        if name in self.__dict__ or name in self._view_wide.__dict__[BUFFERS]:
            hold_(self, name, MISSING)
            touched_(self)
            return
        refuse(self, f"delete '{name}' of")

    def register_parameter(self, name: str, param: Any) -> None:
        refuse(self, f"register the parameter '{name}' on")

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """A buffer of this view alone, which is never saved."""
        self._view_given[name] = tensor
        touched_(self)

    def add_module(self, name: str, module: Any) -> None:
        """A module of this view alone."""
        setattr(self, name, module)

    register_module = add_module

    def requires_grad_(self, requires_grad: bool = True) -> NoReturn:
        """Refused: a view has no flags of its own."""
        refuse(self, f"{'unfreeze' if requires_grad else 'freeze'}")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of the wide parameters that this view uses."""
        for m in self.modules():  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(m, Live):
                affine_of_width = [own_of_width(m, name) for name in ("weight", "bias")]
                for p in (*m._view_wide.__dict__[PARAMETERS].values(), *affine_of_width):
                    if p is not None and p.grad is not None:
                        p.grad = None if set_to_none else p.grad.detach().zero_()

    # --- copies -------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict) -> nn.Module:
        return standalone(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return standalone(self).__reduce_ex__(1)  # later protocols insist on this class


# --- what torch asks a module for, under names of its own -------------------------------------------------------


def _registered_parameters(self: Any) -> MutableMapping[str, Any]:
    return TensorMapping(self, PARAMETERS)


def _registered_buffers(self: Any) -> MutableMapping[str, Any]:
    return TensorMapping(self, BUFFERS)


def _children(self: Any) -> dict[str, Any]:
    if not torch.compiler.is_compiling():
        now = self.__dict__[MODULES]
        if [*now.values()] != [*self._view_expected.values()]:
            raise restructured(self)
    return self._view_children


def _compiled_call(self: Any) -> None:
    """What `wide.compile()` made runs the wide network."""
    return None


def _move(self: Any, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Live:
    for t in [*self.parameters(recurse), *self.buffers(recurse)]:
        unmoved = t.detach()
        if fn(unmoved) is not unmoved:
            refuse(self, "move or cast")
    return self


def _save(self: Any, destination: Any, prefix: str, keep_vars: bool) -> None:
    """Saved slices hold their own elements, not the wide network's."""
    before = set(destination)
    getattr(super(Live, self), SAVE)(destination, prefix, keep_vars)
    if keep_vars:
        return
    for key in destination.keys() - before:
        t = destination[key]
        shares = isinstance(t, Tensor) and t.untyped_storage().nbytes() > t.numel() * t.element_size()
        if shares or isinstance(t, ViewParameter):
            destination[key] = plain(t)


def _fsdp_state(self: Any) -> Any:
    """The wide module may be sharded."""
    return fsdp_state_of(self._view_wide)


for _name, _member in {
    PARAMETERS: property(_registered_parameters),
    BUFFERS: property(_registered_buffers),
    MODULES: property(_children),
    COMPILED_CALL: property(_compiled_call),
    MOVE: _move,
    SAVE: _save,
    FSDP_STATE: _fsdp_state,
}.items():
    setattr(ViewModule, _name, _member)


def _register(name: str) -> Callable[..., Any]:
    def register(self: Any, *args: Any, **kwargs: Any) -> Any:
        own_hooks_(self)
        return getattr(super(Live, self), name)(*args, **kwargs)

    register.__name__ = name
    return register


for _name in HOOK_REGISTRATIONS:
    setattr(Live, _name, _register(_name))
