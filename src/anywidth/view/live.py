"""The modules of a view: they read the wide network at the time of use.

    wide   Conv2d   __dict__ = {kernel_size: 3, _forward_hooks: {...}, out_channels: 8, _parameters: {weight: (8, 4, 3, 3)}}
    view   Conv2d   __dict__ = the same dict object
                    slots    = out_channels: 4, what is cut (weight: (4, 2, 3, 3)), its children, its norms

A view's module is of a subclass of the wide module's class and shares its `__dict__`, so attributes, flags, buffers and hooks
are the wide module's current ones and cost nothing. What differs is a data descriptor of the class, which Python asks before
the `__dict__`: narrow integers are slots; tensors are cut out of the wide tensor, in the graph; attributes that reach modules
are mapped into the view. What is written to a view stays in `_view_own`, under a subclass that reads it there.
"""

from __future__ import annotations

import inspect
import sys
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from anywidth.errors import StaleViewError, ViewError
from anywidth.view.leaves import HELD, reader_of
from anywidth.view.mapping import mapped, reaches
from anywidth.view.packs import Pack, PackStore
from anywidth.view.parameters import ViewParameter, handed_out, plain, state_of
from anywidth.view.slices import Slice

_PLAIN = (Tensor, nn.Parameter)
# A tensor inside vmap or jvp has no memory of its own.
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # pyright: ignore[reportAttributeAccessIssue]
_SCALARS = (bool, int, float, str, bytes, complex, type(None), torch.dtype, torch.device)
_MISSING = object()
_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith(("_hooks", "_with_kwargs", "_called")))
_FLAT_WEIGHTS = ("_flat_weights", "_flat_weight_refs")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class NormAt(Protocol):
    """A batch norm at one width, as its module in a view reads it."""

    bank: Any  # its `still`: whether norms stay in evaluation mode, whatever the mode of the network
    affine: bool  # whether it has a scale and shift of its own
    like_wide: bool  # whether it sees what it sees in the wide network
    tensors: dict[str, Tensor]
    names: dict[str, str]  # of the norm's tensors in `tensors`

    def ready(self) -> bool:
        """Whether it has statistics to evaluate with."""
        ...

    def parameter(self, name: str) -> Tensor | None:
        """What stands for an affine parameter of the wide network, None if nothing does."""
        ...

    def statistic(self, name: str, training: bool) -> Tensor | None:
        """What stands for a statistic of the wide network in a mode, None if nothing does."""
        ...

    def followed(self, name: str, wide: Tensor) -> Tensor:
        """A statistic of this width, where the wide network's is and of its type."""
        ...

    def require(self, norm: Any) -> None:
        """Raise if a norm of a view in evaluation mode has nothing to evaluate with."""
        ...


def own_of_width(view: Any, name: str, *, training: bool | None = None) -> Tensor | None:
    """The tensor that a batch norm has of its width alone, None if it has none."""
    norm = view._view_norm
    if norm is None:
        return None
    if name in STATISTICS:
        return norm.statistic(name, view.training if training is None else training)
    return norm.parameter(name)


class Shared:
    """What the modules of one view have in common.

    Attributes:
        number: of this view among all views of the process.
        modules: id of a wide module -> its view.
        changed: called when a user changes the view.
        packs: copies for inference; None for none.
        places: id of a wide tensor -> where it was when the view was made.
    """

    def __init__(
        self,
        packs: PackStore | None,
        changed: Callable[[Any], None],
        places: dict[int, tuple[nn.Module, str, str]],
    ) -> None:
        self.packs, self.changed, self.places = packs, changed, places
        self.number = id(self) if packs is None else packs.next_view()
        self.modules: dict[int, weakref.ref[Live]] = {}
        self.handed: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.exported: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        if packs is not None:
            weakref.finalize(self, packs.drop, self.number)

    def view_of(self, value: Any) -> Any:
        """What stands for a module or a registered tensor of the wide network in this view; None for others."""
        if isinstance(value, nn.Module):
            reference = self.modules.get(id(value))
            view = None if reference is None else reference()
            if reference is not None and view is None:
                raise StaleViewError(
                    f"a part of a view of width-elastic {type(value).__name__} was kept longer than the view, and needs its other "
                    "parts. Keep the view that net.at(width) gave."
                )
            return view
        place = self._place(value)
        if place is None:
            return None
        view = self.view_of(place[0])
        return None if view is None else taken(view, place[1], place[2])

    def registered(self, tensor: Tensor) -> bool:
        """Whether a tensor is a parameter or buffer of the wide network."""
        return self._place(tensor) is not None

    def _place(self, tensor: Tensor) -> tuple[nn.Module, str, str] | None:
        known = self.places.get(id(tensor))
        if known is not None and known[0].__dict__[known[1]].get(known[2]) is tensor:
            return known
        if isinstance(tensor, nn.Parameter):  # assigned since
            for reference in self.modules.values():
                view = reference()
                wide = None if view is None else view._view_wide
                for name, p in () if wide is None else wide.__dict__["_parameters"].items():
                    if p is tensor:
                        assert wide is not None
                        return wide, "_parameters", name
        return None


def forward_of(self: Any) -> Any:
    """The forward of the model's class, or what took its place on the wide module; bound to the view."""
    if self._view_compiled is not None:
        return self._view_compiled
    if "forward" in self._view_own:
        return self._view_own["forward"]
    if "forward" in self._view_wide.__dict__:
        return _patched_forward(self)
    return self._view_forward


class ForwardProperty(property):
    """Of a view's module, `forward_of`; of its class, the model's own function."""

    def __get__(self, instance: Any, owner: Any = None, /) -> Any:
        return owner._view_kind.forward if instance is None else super().__get__(instance, owner)


def _patched_forward(view: Any) -> Any:
    from anywidth.view.build import refreshed_

    refreshed_(view)  # whoever replaces forward may keep the old one in an attribute of its own
    return mapped(view.__dict__["forward"], view._view_shared.view_of)


def call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """What calling a module does: without hooks, its forward. Looking for them costs more in `nn.Module`, where every module of
    the network pays for it.
    """
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


_MODULE_CALL = nn.Module.__call__
_CALLS = (nn.Module._call_impl.__code__, call.__code__)


class Live:
    """Mixed in before the wide module's class."""

    __slots__ = (
        "_view_children",
        "_view_compiled",
        "_view_expected",
        "_view_given",
        "_view_kept",
        "_view_memo",
        "_view_norm",
        "_view_own",
        "_view_packs",
        "_view_path",
        "_view_shared",
        "_view_slices",
        "_view_wide",
    )

    if TYPE_CHECKING:
        _view_children: dict[str, Any]
        _view_compiled: Any
        _view_expected: dict[str, nn.Module | None]
        _view_forward: Any
        _view_given: dict[str, Tensor | None]
        _view_kept: Mapping[str, Kept]
        _view_kind: Any  # the model's class
        _view_leaf: bool  # whether `leaves` may stand for it in inference
        _view_narrow: tuple[str, ...]  # names of the narrow integers
        _view_memo: dict[str, tuple[Any, Any]]
        _view_norm: NormAt | None
        _view_own: dict[str, Any]
        _view_packs: dict[str, Pack]
        _view_path: str
        _view_shared: Shared
        _view_slices: dict[str, Slice]
        _view_wide: nn.Module
        training: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Models make modules of their own class (`sequential[:2]`): those are ordinary ones."""
        return cls._view_kind(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Views do not register themselves where subclasses of the user's classes do."""

    # --- reading ------------------------------------------------------------------------------------------------

    @property
    def _parameters(self) -> MutableMapping[str, Any]:
        return _Tensors(self, "_parameters")

    @property
    def _buffers(self) -> MutableMapping[str, Any]:
        return _Tensors(self, "_buffers")

    @property
    def _modules(self) -> dict[str, Any]:
        if not torch.compiler.is_compiling():
            now = self.__dict__["_modules"]
            if [*now.values()] != [*self._view_expected.values()]:
                raise _restructured(self)
        return self._view_children

    @property
    def _compiled_call_impl(self) -> None:
        """What `wide.compile()` made runs the wide network."""
        return None

    def __getattr__(self, name: str) -> Any:
        child = self._view_children.get(name)
        if child is not None:
            if self._view_wide.__dict__["_modules"].get(name) is not self._view_expected.get(name):
                raise _restructured(self)
            return child
        if name in self._view_children:
            return None
        if name in self._view_given:
            return self._view_given[name]
        if name in self._view_wide.__dict__["_modules"]:
            raise _restructured(self)
        return super().__getattr__(name)  # pyright: ignore[reportAttributeAccessIssue]

    def extra_repr(self) -> str:
        """The model's own text, of the narrow sizes also where it is made from the `__dict__`."""
        plain = object.__new__(type(self._view_wide))
        plain.__dict__.update(attributes_of(self), _parameters=dict(self._parameters))
        return plain.extra_repr()

    # --- writing ------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        static = inspect.getattr_static(type(self), name, None)
        if isinstance(static, types.MemberDescriptorType):  # a narrow integer, or one of ours
            object.__setattr__(self, name, value)
            if not name.startswith("_view_"):
                self._view_packs.pop(HELD, None)
                _touched(self)
            return
        if name in _FLAT_WEIGHTS and isinstance(self, nn.RNNBase):
            return  # it keeps them to see changes; a view takes them anew at every call
        state = self._view_wide.__dict__
        if isinstance(value, nn.Module) or name in self._view_children:
            self._view_children[name] = self._view_own[name] = value
            _touched(self)
        elif name in state["_parameters"] or isinstance(value, nn.Parameter):
            _write_parameter(self, name, value)
        elif name in state["_buffers"]:
            _write_buffer(self, name, value)
        elif hasattr(inspect.getattr_static(type(self._view_wide), name, None), "__set__"):
            object.__setattr__(self, name, value)  # a property of the model's own
        else:
            hold_(self, name, value)
            _touched(self)

    def __delattr__(self, name: str) -> None:
        if name in self._view_own and name not in self._view_children:
            del self._view_own[name]
            return
        if name in self.__dict__ or name in self._view_wide.__dict__["_buffers"]:
            hold_(self, name, _MISSING)
            _touched(self)
            return
        refuse(self, f"delete '{name}' of")

    def register_parameter(self, name: str, param: Any) -> None:
        refuse(self, f"register the parameter '{name}' on")

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """A buffer of this view alone, which is never saved."""
        self._view_given[name] = tensor
        _touched(self)

    def add_module(self, name: str, module: Any) -> None:
        """A module of this view alone."""
        setattr(self, name, module)

    register_module = add_module

    def requires_grad_(self, requires_grad: bool = True) -> NoReturn:
        """Refused: a view has no flags of its own."""
        refuse(self, f"{'unfreeze' if requires_grad else 'freeze'}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Live:
        for t in [*self.parameters(recurse), *self.buffers(recurse)]:  # pyright: ignore[reportAttributeAccessIssue]
            plain = t.detach()
            if fn(plain) is not plain:
                refuse(self, "move or cast")
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of the wide parameters that this view uses."""
        for m in self.modules():  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(m, Live):
                own = [own_of_width(m, name) for name in ("weight", "bias")]
                for p in (*m._view_wide.__dict__["_parameters"].values(), *own):
                    if p is not None and p.grad is not None:
                        p.grad = None if set_to_none else p.grad.detach().zero_()

    # --- copies -------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict) -> nn.Module:
        from anywidth.view.copies import standalone

        return standalone(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        from anywidth.view.copies import standalone

        return standalone(self).__reduce_ex__(1)  # later protocols insist on this class

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        before = set(destination)
        super()._save_to_state_dict(destination, prefix, keep_vars)  # pyright: ignore[reportAttributeAccessIssue]
        if keep_vars:
            return
        for key in (
            destination.keys() - before
        ):  # saved slices hold their own elements, not the wide network's
            t = destination[key]
            if (
                isinstance(t, Tensor) and t.untyped_storage().nbytes() > t.numel() * t.element_size()
            ) or isinstance(t, ViewParameter):
                destination[key] = plain(t)

    # --- the wide module may be sharded: what FSDP asks a module for ----------------------------------------------

    def _get_fsdp_state(self) -> Any:
        return self._view_wide._get_fsdp_state()  # pyright: ignore[reportCallIssue]


def _register(name: str) -> Callable[..., Any]:
    def register(self: Any, *args: Any, **kwargs: Any) -> Any:
        own_hooks_(self)
        return getattr(super(Live, self), name)(*args, **kwargs)

    register.__name__ = name
    return register


for _name in vars(nn.Module):
    if _name.lstrip("_").startswith("register") and "hook" in _name:
        setattr(Live, _name, _register(_name))


# --- tensors ----------------------------------------------------------------------------------------------------------


def tensor_property(place: str, name: str, readers: Sequence[types.CodeType], depth: int = 1) -> property:
    """A parameter or buffer, cut out of the wide module's current one when it is read.

    Args:
        place: `_parameters` or `_buffers`.
        name: in the module.
        readers: the code of the class's forward, and of what it calls; others who read may want to write.
        depth: how many frames up the reader is.
    """

    reader, others = readers[0] if readers else None, frozenset(map(id, readers[1:]))

    def get(self: Any) -> Any:
        if self._view_given and name in self._view_given:
            return self._view_given[name]
        tensor = self._view_wide.__dict__[place].get(name, _MISSING)
        part = self._view_slices.get(name)
        if part is None:
            if tensor is not None and type(tensor) not in _PLAIN:
                _check_use(self, name, tensor)
            return tensor
        if tensor is None or tensor is _MISSING:
            _check_use(self, name, tensor)
            return None
        if not torch.compiler.is_compiling():
            code = sys._getframe(depth).f_code
            if code is not reader and id(code) not in others:
                return _read(self, place, name)
            packs = self._view_shared.packs
            if place == "_buffers":
                return (
                    part.take(tensor) if part.aliases else handed_out(tensor, part)
                )  # a forward may write to it
            if packs is not None:
                if torch.is_grad_enabled() and tensor.requires_grad:
                    packs.learnt += 1
                    if part.aliases and type(tensor) is nn.Parameter and tensor.shape == part.wide:
                        return tensor.as_strided(part.shape, tensor.stride())
                elif not (self.training or _is_wrapped(tensor)):
                    pack = self._view_packs.get(name)
                    if (
                        pack is not None
                        and pack.pointer == tensor.data_ptr()
                        and pack.dtype is tensor.dtype
                        and (
                            not pack.bytes  # an alias keeps its storage alive, so that the address is its own
                            or (
                                pack.version == tensor._version
                                and pack.storage == tensor.untyped_storage()._cdata
                                and pack.learnt == packs.learnt
                                and tensor.grad is None
                            )
                        )
                    ):
                        return pack.part
                    if type(tensor) in _PLAIN and tensor.shape == part.wide:
                        return packs.take(self._view_shared.number, self._view_packs, name, tensor, part)
        if type(tensor) not in _PLAIN or tensor.shape != part.wide:
            _check_use(self, name, tensor)
        return part.take(tensor)

    return property(get)


def lazy_property(name: str) -> property:
    """A buffer that was None when the network was made elastic: what it holds now was made by a forward of another width."""

    def get(self: Any) -> Any:
        return self._view_given.get(name)

    return property(get)


def norm_property(place: str, name: str, readers: Sequence[types.CodeType], *, switchable: bool) -> property:
    """A tensor of a batch norm: that of the width where it has one of its own."""
    if name not in STATISTICS and not switchable:
        return tensor_property(place, name, readers)
    read = tensor_property(place, name, readers, depth=2).fget
    assert read is not None
    first = name == "running_mean"

    def affine(self: Any) -> Any:
        norm = self._view_norm
        if norm is not None and norm.affine and name not in self._view_given:
            tensor = norm.parameter(name)
            if tensor is not None:
                return tensor
        return read(self)

    def statistic(self: Any) -> Any:
        norm: NormAt | None = self._view_norm
        tensor = None if norm is None else norm.tensors.get(norm.names[name])
        if norm is None or tensor is None or name in self._view_given:
            return read(self)
        if first and not torch.compiler.is_compiling():
            wide = self._view_wide.__dict__["_buffers"][name]
            if tensor.dtype is not wide.dtype or tensor.is_cpu is not wide.is_cpu:
                tensor = norm.followed(name, wide)
        if not (self.training or norm.ready()):
            if norm.like_wide:
                return read(self)
            if name != "num_batches_tracked":
                norm.require(self)
        return tensor

    return property(statistic if name in STATISTICS else affine)


def norm_training(self: Any) -> bool:
    """Norms that are constants stay in evaluation mode, whatever the mode of the network; a flag set on the norm itself holds."""
    if "training" in self._view_own:
        return self._view_own["training"]
    norm = self._view_norm
    return self._view_wide.__dict__["training"] and not (norm is not None and norm.bank.still)


def norm_train(self: Any, mode: bool = True) -> Any:
    """`train()` of the network leaves constant norms in evaluation mode."""
    norm = self._view_norm
    return nn.Module.train(self, mode and not (norm is not None and norm.bank.still))


def _check_use(view: Any, name: str, tensor: Any) -> None:
    """A tensor that is not what the view was made for."""
    if tensor is _MISSING:
        raise StaleViewError(
            f"'{_dotted(view, name)}' is no longer a tensor of the wide network (it was removed, or a parametrization or mask took "
            "its place). Do that before aw.Elastic(model, example_inputs), or to the result of net.extract(width)."
        )
    if tensor is None:
        return
    part = view._view_slices.get(name)
    if part is not None and tensor.shape != part.wide:
        raise StaleViewError(
            f"'{_dotted(view, name)}' has the shape {tuple(tensor.shape)}, but had {tuple(part.wide)} when this view was made. "
            "Call net.at(width) again, or make the network elastic again: aw.Elastic(model, example_inputs)."
        )
    if _is_sharded(tensor) and _reads_in_forward(view):
        raise ViewError(
            f"'{_dotted(view, name)}' is sharded and was not gathered for this call: FSDP gathers parameters for calls of the modules "
            "that were sharded. Shard net.model, call net.at(width)(...), and name other entries with "
            "torch.distributed.fsdp.register_fsdp_forward_method(net.model, 'forward_features') before net.at(width)."
        )


def _is_sharded(tensor: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _reads_in_forward(view: Any) -> bool:
    frame, code = sys._getframe(3), getattr(type(view._view_wide).forward, "__code__", None)
    return frame.f_code is code


def taken(view: Any, place: str, name: str) -> Any:
    """A tensor of the view, in the graph, for the model's own code."""
    if name in view._view_given:
        return view._view_given[name]
    if place == "_buffers" and name in view._view_kept and view._view_kept[name].runtime:
        return None
    tensor = own_of_width(view, name, training=False)
    if tensor is not None:
        return tensor
    tensor = view._view_wide.__dict__[place][name]
    part = view._view_slices.get(name)
    return tensor if tensor is None or part is None else part.take(tensor)


def _read(view: Any, place: str, name: str) -> Any:
    """What a user gets who asks for a tensor of the view: in the graph, no leaf, and changes go to the wide network."""
    if name in view._view_given:
        return view._view_given[name]
    if place == "_buffers" and name in view._view_kept and view._view_kept[name].runtime:
        return None
    own = own_of_width(view, name)
    if own is not None:
        if name in STATISTICS and not view.training and _exporting():
            view._view_norm.require(view)
        return own
    tensor = view._view_wide.__dict__[place][name]
    part = view._view_slices.get(name)
    if tensor is None or (part is None and place == "_buffers"):
        return tensor
    if part is not None and tensor.shape != part.wide:
        _check_use(view, name, tensor)
    if _exporting():
        return _exported(view, tensor, part)
    handed = view._view_shared.handed
    known = handed.get(id(tensor))
    if known is not None and known._state == state_of(tensor):
        return known
    with torch.enable_grad():
        handed[id(tensor)] = t = handed_out(tensor, part)
    return t


def _exporting() -> bool:
    """Whether torch.export lists parameters: it takes leaves only, and says nowhere that it is at work."""
    frame = sys._getframe(2)
    for _ in range(12):
        if frame is None:
            return False
        if frame.f_globals.get("__name__", "").startswith(("torch.export", "torch._export")):
            return True
        frame = frame.f_back
    return False


def _exported(view: Any, tensor: Tensor, part: Slice | None) -> Tensor:
    known = view._view_shared.exported.get(id(tensor))
    if known is None:
        t = (tensor if part is None else part.take(tensor)).detach().clone()
        known = nn.Parameter(t, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else t
        view._view_shared.exported[id(tensor)] = known
    return known


class _Tensors(MutableMapping):
    """The parameters or the buffers of a view's module. What is put here stays here (`torch.func.functional_call`)."""

    def __init__(self, view: Any, place: str) -> None:
        self.view, self.place = view, place

    def _names(self) -> dict[str, Any]:
        return self.view._view_wide.__dict__[self.place]

    def __getitem__(self, name: str) -> Any:
        if name in self._names():
            return _read(self.view, self.place, name)
        if self.place == "_buffers" and name in self.view._view_given:
            return self.view._view_given[name]
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        view, tensor = self.view, self._names().get(name)
        shared = view._view_shared
        own = value is not None and (
            value is shared.exported.get(id(tensor))
            or (isinstance(value, ViewParameter) and value._wide is tensor)
        )
        of_width = own_of_width(view, name)
        if own or (of_width is not None and value is of_width) or value is tensor:
            view._view_given.pop(name, None)
            return
        if name not in self._names():
            refuse(view, f"register '{name}' on")
        view._view_given[name] = value

    def __delitem__(self, name: str) -> None:
        refuse(self.view, f"delete '{name}' of")

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names()))

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()


def _write_parameter(view: Any, name: str, value: Any) -> None:
    """What is assigned to a parameter of a view is written to the wide network."""
    wide = view._view_wide.__dict__["_parameters"].get(name)
    if not isinstance(value, Tensor) or wide is None:
        refuse(view, f"register or remove the parameter '{name}' of")
    target = _read(view, "_parameters", name)
    if value is target:
        return
    if value.shape != target.shape:
        raise ViewError(
            f"'{_dotted(view, name)}' is {tuple(target.shape)} at this width; {tuple(value.shape)} cannot be written to it."
        )
    with torch.no_grad():
        target.copy_(value)


def _write_buffer(view: Any, name: str, value: Any) -> None:
    """A buffer that the model's own code replaces stays in the view; what a user assigns is written to where it is kept."""
    current = _read(view, "_buffers", name)
    if value is current:
        return
    same = isinstance(value, Tensor) and isinstance(current, Tensor) and value.shape == current.shape
    if same and not _running(view):
        with torch.no_grad():
            current.copy_(value)
        return
    view._view_given[name] = value
    _touched(view)


# --- attributes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """An attribute as it was when the network was made elastic.

    Attributes:
        value: of the attribute.
        holds_tensors: whether there were tensors in it.
        inert: whether it is immutable and reaches nothing.
        runtime: whether methods of the class assign it. Tensors that are there now but were not then are state of the wide network
            (features, caches, masks of its size), and do not cross to other widths.
    """

    value: Any
    holds_tensors: bool
    inert: bool
    runtime: bool

    @staticmethod
    def of(value: Any, *, runtime: bool) -> Kept:
        inert = not reaches(value) and not _mutable(value)
        return Kept(value.copy() if type(value) is dict else value, holds_tensors(value), inert, runtime)


def _mutable(value: Any) -> bool:
    return isinstance(value, list | dict | set) or (isinstance(value, tuple) and any(map(_mutable, value)))


NOTHING = Kept(_MISSING, False, False, True)


def _written(view: Any, name: str) -> Any:
    """What was written to an attribute of a view; it may have been deleted there."""
    value = view._view_own[name]
    if value is _MISSING:
        raise AttributeError(f"'{type(view).__name__}' object has no attribute '{name}'")
    return value


def attribute_property(name: str) -> property:
    """An attribute that may reach modules or tensors of the wide network, mapped when it is read."""

    def get(self: Any) -> Any:
        if name in self._view_own:
            return _written(self, name)
        value = self._view_wide.__dict__.get(name, _MISSING)
        if type(value) in _SCALARS:
            return value
        if torch.compiler.is_compiling():
            if name in self._view_memo:
                return self._view_memo[name][1]
        else:
            kept = self._view_kept.get(name, NOTHING)
            if kept.inert and value is kept.value:
                return value
        if value is _MISSING:
            return _of_class(self, name)
        try:
            return _mapped_attribute(self, name)
        except AttributeError:
            return _of_class(self, name)

    return property(get)


def _of_class(view: Any, name: str) -> Any:
    """An attribute of the model's class."""
    static = inspect.getattr_static(view._view_kind, name, _MISSING)
    if static is _MISSING:
        raise AttributeError(f"'{type(view).__name__}' object has no attribute '{name}'")
    return static.__get__(view, type(view)) if hasattr(static, "__get__") else static


def visible(view: Any, name: str) -> Any:
    """The wide module's attribute as far as other widths may see it, not mapped yet.

    Raises:
        AttributeError: there is none, or it is runtime state of the wide network.
    """
    value = view._view_wide.__dict__.get(name, _MISSING)
    kept = view._view_kept.get(name, NOTHING)
    registered = view._view_shared.registered
    if value is not _MISSING and not kept.holds_tensors:
        if type(value) is dict:  # a cache: what it holds is of another width
            unknown = [k for k, v in value.items() if _unregistered(v, registered)]
            value = {k: v for k, v in value.items() if k not in unknown} if unknown else value
        elif (
            type(value) is list and type(kept.value) is list
        ):  # a list stays that list, but for tensors of another width
            value = (
                [v for v in value if not _unregistered(v, registered)]
                if _unregistered(value, registered)
                else value
            )
        elif kept.runtime and _unregistered(value, registered):
            value = kept.value
    if value is _MISSING:
        raise AttributeError(f"'{type(view).__name__}' object has no attribute '{name}'")
    return value


def _mapped_attribute(view: Any, name: str) -> Any:
    value, lookup = visible(view, name), view._view_shared.view_of
    if not isinstance(value, (list, dict, tuple)):
        if name not in view._view_memo or view._view_memo[name][0] is not value:
            copy = mapped(value, lookup)
            if copy is value or isinstance(
                copy, (types.MethodType, nn.Module, Tensor, partial, types.FunctionType)
            ):
                return copy  # kept, a method or a function would keep the view alive
            view._view_memo[name] = (value, copy)
        return view._view_memo[name][1]
    if any(isinstance(v, Tensor) and view._view_shared.registered(v) for v in _leaves(value)):
        return mapped(value, lookup)  # registered tensors are taken anew at every use
    content = _content(value)
    if name not in view._view_memo or view._view_memo[name][0] != content:
        copy = mapped(value, lookup)
        if type(value) is dict and copy is value:
            copy = value.copy()
        view._view_memo[name] = (content, copy)
    return view._view_memo[name][1]


def prepare_(view: Any, *, methods: bool) -> None:
    """Map attributes now, for graphs: compilers take what is mapped already.

    Args:
        methods: also what is no container. It leads back to the view, which then waits for the garbage collector.
    """
    for name, kept in view._view_kept.items():
        value = view._view_wide.__dict__.get(name, _MISSING)
        if value is _MISSING or type(value) in _SCALARS:
            continue
        inert = kept.inert and value is kept.value
        if not (methods or inert or isinstance(value, (list, dict, tuple))):
            continue
        known = view._view_memo.get(name)
        if known is None or known[0] is not value:
            try:
                copy = value if inert else _mapped_attribute(view, name)
            except AttributeError:
                continue
            if name not in view._view_memo or known is not None:
                view._view_memo.setdefault(name, (value, copy))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for v in value:
            yield from _leaves(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from _leaves(v)
    else:
        yield value


def holds_tensors(value: Any) -> bool:
    """Whether a value is a tensor, or a container with one."""
    return any(isinstance(v, Tensor) for v in _leaves(value))


def _unregistered(value: Any, registered: Callable[[Tensor], bool]) -> bool:
    """Whether a value holds tensors that are no parameters or buffers."""
    return any(isinstance(v, Tensor) and not registered(v) for v in _leaves(value))


def _content(value: Any) -> Hashable:
    """What a container holds, by identity; it changes when the content does."""
    if isinstance(value, list | tuple):
        return tuple(map(_content, value))
    if isinstance(value, dict):
        return tuple((k, _content(v)) for k, v in value.items())
    return id(value)


def hooks_property(name: str) -> property:
    """The wide module's hooks, with methods and closures over modules mapped into the view."""

    def get(self: Any) -> Any:
        hooks = self.__dict__[name]
        if not (hooks or self._view_own):
            return hooks
        own = self._view_own.get(name)
        return wide_hooks(self, name) if own is None else own

    return property(get)


def wide_hooks(view: Any, name: str) -> Any:
    """Hooks of the wide module as they are now."""
    hooks = view.__dict__[name]
    return (
        mapped(hooks, view._view_shared.view_of)
        if name in ("_forward_hooks", "_forward_pre_hooks")
        else hooks
    )


class _Hooks(OrderedDict):
    """Hooks of a view's module: the wide module's current ones first, then its own."""

    def __init__(self, view: Any, name: str) -> None:
        super().__init__()
        self._view, self._name = weakref.ref(view), name

    def _wide(self) -> dict:
        view = self._view()
        return {} if view is None else wide_hooks(view, self._name)

    def __len__(self) -> int:
        return len(self._wide()) + super().__len__()

    def __bool__(self) -> bool:
        return len(self) > 0

    def __iter__(self) -> Iterator[Any]:
        yield from self._wide()
        yield from super().__iter__()

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._wide()

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if super().__contains__(key) else self._wide()[key]

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return [self[k] for k in self]

    def items(self) -> Any:
        return [(k, self[k]) for k in self]

    def flat(self) -> OrderedDict:
        """An ordinary dict with all of them."""
        return OrderedDict(self.items())


def own_hooks_(view: Any) -> None:
    """Give a module of a view hooks of its own, beside the wide module's."""
    for name in _HOOKS:
        if name not in view._view_own:
            hold_(view, name, _Hooks(view, name))
    _touched(view)


# --- what is done to a view ---------------------------------------------------------------------------------------------


def hold_(view: Any, name: str, value: Any) -> None:
    """Give a module of a view an attribute of its own."""
    view._view_own[name] = value
    kind = type(view)
    if not isinstance(inspect.getattr_static(kind, name, None), property):
        object.__setattr__(view, "__class__", _owning(kind, name))


@contextmanager
def holding(module: nn.Module, **attributes: Any) -> Iterator[None]:
    """Attributes of a module, of a view or not, that hold inside; the view stays what `at` returns."""
    if not isinstance(module, Live):
        saved = {name: module.__dict__[name] for name in attributes}
        try:
            module.__dict__.update(attributes)
            yield
        finally:
            module.__dict__.update(saved)
        return
    kind = type(module)
    before = {name: module._view_own[name] for name in attributes if name in module._view_own}
    try:
        for name, value in attributes.items():
            hold_(module, name, value)
        yield
    finally:
        for name in attributes:
            del module._view_own[name]
        module._view_own.update(before)
        object.__setattr__(module, "__class__", kind)  # attributes of its own cost every read


@contextmanager
def unnoticed(view: nn.Module) -> Iterator[None]:
    """What is done to a view inside is undone inside, or meant for all who hold it: it stays what `at` returns."""
    if not isinstance(view, Live):
        yield
        return
    shared, changed = view._view_shared, view._view_shared.changed
    shared.changed = lambda shared: None
    try:
        yield
    finally:
        shared.changed = changed


@contextmanager
def instead(module: nn.Module, **tensors: Tensor | None) -> Iterator[None]:
    """Tensors that a module, of a view or not, has inside in place of its buffers of these names."""
    place: Any = module._view_given if isinstance(module, Live) else module._buffers
    before = {name: place[name] for name in tensors if name in place}
    try:
        place.update(tensors)
        yield
    finally:
        for name in tensors:
            del place[name]
        place.update(before)


@contextmanager
def standing_for_tensors(module: nn.Module, found: dict[int, tuple[nn.Module, str]]) -> Iterator[None]:
    """Every tensor of a view is one object inside, and `found` says by its id which; for torch.fx, which knows tensors so."""
    views = [m for m in module.modules() if isinstance(m, Live)]
    keep: list[Tensor] = []  # ids stay theirs
    added: list[tuple[Any, str]] = []
    try:
        for view in views:
            for place in ("_parameters", "_buffers"):
                for name in view._view_wide.__dict__[place]:
                    t = taken(view, place, name)
                    if t is None or name in view._view_given:
                        continue
                    t = t.detach()
                    keep.append(t)
                    found[id(t)] = (view, name)
                    view._view_given[name] = t
                    added.append((view, name))
        yield
    finally:
        for view, name in added:
            del view._view_given[name]
        found.clear()


def attributes_of(view: Any) -> dict[str, Any]:
    """The attributes of a view's module: the wide module's, narrow integers, and what was written to it; not mapped."""
    state = dict(view.__dict__)
    for name in view._view_kept:
        try:
            state[name] = visible(view, name)
        except AttributeError:
            state.pop(name, None)
    kinds = [c for c in type(view).__mro__ if issubclass(c, Live) and c is not Live]
    state.update({n: getattr(view, n) for c in kinds for n in vars(c).get("__slots__", ())})
    for name, value in view._view_own.items():
        if value is _MISSING:
            state.pop(name, None)
        elif name not in view._view_children:
            state[name] = value.flat() if isinstance(value, _Hooks) else value
    return state


_owning_classes: weakref.WeakValueDictionary[tuple[type, str], type] = weakref.WeakValueDictionary()


def _owning(kind: type, name: str) -> type:
    """The same class, which reads `name` in what the view owns first."""
    known = _owning_classes.get((kind, name))
    if known is None:

        def get(self: Any) -> Any:
            if name in self._view_own:
                return _written(self, name)
            if name in self._view_wide.__dict__:
                return self._view_wide.__dict__[name]
            return getattr(super(made, self), name)

        made = type(kind)(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, "__qualname__": kind.__qualname__, name: property(get)})  # fmt: skip
        _owning_classes[kind, name] = known = made
    return known


def _running(view: Any) -> bool:
    """Whether a module of this view is being called, so that what is assigned is assigned by the model's own code."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code in _CALLS:
            module = frame.f_locals.get("self")
            if isinstance(module, Live) and module._view_shared is view._view_shared:
                return True
        frame = frame.f_back
    return False


def _touched(view: Any) -> None:
    """A view that a user changes leaves the cache of `at`; what the model's own forward assigns changes nothing."""
    if not torch.compiler.is_compiling() and not _running(view):
        view._view_shared.changed(view._view_shared)


def check(view: nn.Module) -> None:
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


def refuse(view: Any, what: str) -> NoReturn:
    """Raise the error of what cannot be done to a view."""
    kind = type(view).__name__
    raise ViewError(
        f"cannot {what} a view of {kind}: its tensors are parts of the wide network's, and stay so. Do it to the wide network "
        "(net.model) for all widths, or to a copy of this width alone: net.extract(width)."
    )


def _restructured(view: Any) -> StaleViewError:
    view._view_shared.changed(view._view_shared)
    return StaleViewError(
        f"modules of '{view._view_path or type(view).__name__}' were added, removed or replaced since this view was made. "
        "Call net.at(width) again."
    )


def _dotted(view: Any, name: str) -> str:
    return f"{view._view_path}.{name}" if view._view_path else name


def is_view(module: nn.Module) -> bool:
    """Whether a module is part of a view."""
    return isinstance(module, Live)
