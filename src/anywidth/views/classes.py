"""Classes of views, one for each class of modules and what its modules hold."""

from __future__ import annotations

import inspect
import types
import weakref
from dataclasses import dataclass
from typing import Any

from torch import nn

from anywidth.compat.layers import BatchNorm
from anywidth.compat.module_calls import has_plain_call
from anywidth.compat.module_state import BUFFERS, FORWARD_HOOKS, FORWARD_PRE_HOOKS, PARAMETERS
from anywidth.compat.reparametrised import parametrized_names, parametrized_property
from anywidth.errors import TraceError
from anywidth.views.attributes import attribute_property
from anywidth.views.base import STATISTICS
from anywidth.views.baseline import assigned_names
from anywidth.views.calling import call_module
from anywidth.views.forward import ForwardProperty, forward_of
from anywidth.views.hooks import hooks_property
from anywidth.views.modules import ViewModule
from anywidth.views.tensors import lazy_property, norm_property, norm_train, norm_training, tensor_property


@dataclass(frozen=True)
class NormKind:
    """What the batch norms of a network are.

    Attributes:
        switchable: whether widths have scales and shifts of their own.
        still: whether they stay in evaluation mode.
    """

    switchable: bool = False
    still: bool = False


def _codes_of_forward(module_class: Any) -> tuple[types.CodeType, ...]:
    """The code of a class's forward, and of the methods that it calls, and those call."""
    # forward calls self._conv_forward: a read of self.weight from either is the model's, and gets a plain slice.
    codes: dict[str, types.CodeType] = {}
    names = ["forward"]
    while names:
        function = inspect.unwrap(getattr(module_class, names.pop(), None) or len)
        code = getattr(function, "__code__", None)
        if code is not None and code.co_name not in codes and not hasattr(nn.Module, code.co_name):
            codes[code.co_name] = code
            names += code.co_names
        elif code is not None and not codes:
            codes["forward"] = code
            names += code.co_names
    return tuple(codes.values())


def _tensor_properties(
    module_class: type, tensors: tuple[tuple[str, str], ...], attributes: frozenset[str], norms: NormKind
) -> dict[str, property]:
    readers = _codes_of_forward(module_class)
    properties = {}
    for registry, name in tensors:
        if registry == BUFFERS and name in attributes:
            properties[name] = lazy_property(name)
        elif issubclass(module_class, BatchNorm):
            properties[name] = norm_property(registry, name, readers, switchable=norms.switchable)
        else:
            properties[name] = tensor_property(registry, name, readers)
    return properties


def _can_be_read(module_class: type, tensors: tuple[tuple[str, str], ...]) -> bool:
    """Whether a reader with slots can stand for a module of this class: its forward only reads, and knows all its buffers."""
    buffers = {name for registry, name in tensors if registry == BUFFERS}
    known = not buffers or (issubclass(module_class, BatchNorm) and buffers == set(STATISTICS))
    return (
        bool(tensors) and known and not (assigned_names(module_class) or issubclass(module_class, nn.RNNBase))
    )


_classes: weakref.WeakValueDictionary[Any, type] = weakref.WeakValueDictionary()


def view_class(
    module_class: type,
    tensors: tuple[tuple[str, str], ...],
    narrow: tuple[str, ...],
    attributes: frozenset[str],
    norms: NormKind,
    *,
    alone: bool,
) -> type:
    """The class of views of modules of a class that hold these tensors, narrow integers and attributes.

    Args:
        alone: whether the modules have no children.
    """
    key = (module_class, tensors, narrow, attributes, norms, alone)
    known: Any = _classes.get(key)
    if known is None:
        namespace: dict[str, Any] = {
            "__slots__": narrow,
            "__module__": module_class.__module__,
            "__qualname__": module_class.__qualname__,
            "__doc__": module_class.__doc__,
            "forward": ForwardProperty(forward_of),
            "_view_kind": module_class,
            "_view_leaf": False,
            "_view_narrow": narrow,
            "_view_parameters": frozenset(name for registry, name in tensors if registry == PARAMETERS),
            "_view_forward": property(lambda self: super(known, self).forward),
        }
        for name in (FORWARD_HOOKS, FORWARD_PRE_HOOKS):
            namespace[name] = hooks_property(name)
        namespace |= _tensor_properties(module_class, tensors, attributes, norms)
        namespace |= {name: parametrized_property(name) for name in parametrized_names(module_class)}
        if has_plain_call(module_class) and isinstance(
            inspect.getattr_static(module_class, "forward"), types.FunctionType
        ):
            namespace["__call__"] = call_module
            namespace["_view_leaf"] = (
                alone and attributes <= set(narrow) and _can_be_read(module_class, tensors)
            )
        if norms.still and issubclass(module_class, BatchNorm):
            namespace["training"] = property(norm_training)
            namespace["train"] = norm_train
        for name in attributes - set(namespace) - set(narrow):
            namespace[name] = attribute_property(name)
        try:
            metaclass: Any = type(module_class)
            known = metaclass(module_class.__name__, (ViewModule, module_class), namespace)
        except TypeError as error:
            raise TraceError(
                f"views of {module_class.__name__} cannot be made, as its class cannot be combined with another one ({error}). Classes of modules "
                "that are to be elastic have no __slots__."
            ) from error
        _classes[key] = known
    return known
