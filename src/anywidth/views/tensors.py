"""Tensors of a view: cut out of the wide network's current ones when they are read."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.compat.module_state import BUFFERS
from anywidth.compat.tensors import is_functorch_wrapped, storage_address, version_of
from anywidth.compat.tracing import EXPORT_PACKAGES
from anywidth.errors import StaleViewError, ViewError
from anywidth.views.base import MISSING, STATISTICS, NormAt, dotted, own_of_width
from anywidth.views.parameters import handed_out, state_of
from anywidth.views.slices import PLAIN, Slice, is_sharded


def tensor_property(registry: str, name: str, readers: Sequence[types.CodeType], depth: int = 1) -> property:
    """A parameter or buffer, cut out of the wide module's current one when it is read.

    Args:
        registry: `PARAMETERS` or `BUFFERS`.
        name: in the module.
        readers: the code of the class's forward, and of what it calls; others who read may want to write.
        depth: how many frames up the reader is.
    """

    reader, other_readers = readers[0] if readers else None, frozenset(map(id, readers[1:]))

    def get(self: Any) -> Any:
        if self._view_given and name in self._view_given:
            return self._view_given[name]
        tensor = self._view_wide.__dict__[registry].get(name, MISSING)
        active_slice = self._view_slices.get(name)
        if active_slice is None:
            if tensor is not None and type(tensor) not in PLAIN:
                _check_use(self, name, tensor)
            return tensor
        if tensor is None or tensor is MISSING:
            _check_use(self, name, tensor)
            return None
        # A forward that reads gets a plain slice, or the packed copy while nobody learns. Any other reader gets a
        # `ViewParameter`, since what it does to the tensor (an optimiser, an in-place write) must reach the wide network.
        if not torch.compiler.is_compiling():
            code = sys._getframe(depth).f_code
            if code is not reader and id(code) not in other_readers:
                return read_tensor(self, registry, name)
            packs = self._view_shared.packs
            if registry == BUFFERS:
                return (
                    active_slice.take(tensor) if active_slice.aliases else handed_out(tensor, active_slice)
                )  # a forward may write to it
            if packs is not None:
                if torch.is_grad_enabled() and tensor.requires_grad:
                    packs.learnt += 1
                    if (
                        active_slice.aliases
                        and type(tensor) is nn.Parameter
                        and tensor.shape == active_slice.wide_shape
                    ):
                        return tensor.as_strided(active_slice.shape, tensor.stride())
                elif not (self.training or is_functorch_wrapped(tensor)):
                    pack = self._view_packs.get(name)
                    if (
                        pack is not None
                        and pack.pointer == tensor.data_ptr()
                        and pack.dtype is tensor.dtype
                        and (
                            not pack.bytes  # an alias keeps its storage alive, so that the address is its own
                            or (
                                pack.version == version_of(tensor)
                                and pack.storage == storage_address(tensor)
                                and pack.learnt == packs.learnt
                                and tensor.grad is None
                            )
                        )
                    ):
                        return pack.active
                    if type(tensor) in PLAIN and tensor.shape == active_slice.wide_shape:
                        return packs.take(
                            self._view_shared.number, self._view_packs, name, tensor, active_slice
                        )
        if type(tensor) not in PLAIN or tensor.shape != active_slice.wide_shape:
            _check_use(self, name, tensor)
        return active_slice.take(tensor)

    return property(get)


def lazy_property(name: str) -> property:
    """A buffer that was None when the network was made elastic: what it holds now was made by a forward of another width."""

    def get(self: Any) -> Any:
        return self._view_given.get(name)

    return property(get)


def norm_property(
    registry: str, name: str, readers: Sequence[types.CodeType], *, switchable: bool
) -> property:
    """A tensor of a batch norm: that of the width where it has one of its own."""
    if name not in STATISTICS and not switchable:
        return tensor_property(registry, name, readers)
    read = tensor_property(registry, name, readers, depth=2).fget
    assert read is not None
    checks_device = name == "running_mean"

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
        if checks_device and not torch.compiler.is_compiling():
            wide_tensor = self._view_wide.__dict__[BUFFERS].get(name)
            if wide_tensor is None:
                return read(self)
            if tensor.dtype is not wide_tensor.dtype or tensor.is_cpu is not wide_tensor.is_cpu:
                tensor = norm.followed(name, wide_tensor)
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
    if tensor is MISSING:
        raise StaleViewError(
            f"'{dotted(view, name)}' is no longer a tensor of the wide network (it was removed, or a parametrization or mask took "
            "its place). Do that before aw.Elastic(model, example_inputs), or to the result of net.extract(width)."
        )
    if tensor is None:
        return
    active_slice = view._view_slices.get(name)
    if active_slice is not None and tensor.shape != active_slice.wide_shape:
        raise StaleViewError(
            f"'{dotted(view, name)}' has the shape {tuple(tensor.shape)}, but had {tuple(active_slice.wide_shape)} when this view was made. "
            "Call net.at(width) again, or make the network elastic again: aw.Elastic(model, example_inputs)."
        )
    if is_sharded(tensor) and _reads_in_forward(view):
        raise ViewError(
            f"'{dotted(view, name)}' is sharded and was not gathered for this call: FSDP gathers parameters for calls of the modules "
            "that were sharded. Shard net.model, call net.at(width)(...), and name other entries with "
            "torch.distributed.fsdp.register_fsdp_forward_method(net.model, 'forward_features') before net.at(width)."
        )


def _reads_in_forward(view: Any) -> bool:
    frame, code = sys._getframe(3), getattr(type(view._view_wide).forward, "__code__", None)
    return frame.f_code is code


def taken(view: Any, registry: str, name: str) -> Any:
    """A tensor of the view, in the graph, for the model's own code."""
    if name in view._view_given:
        return view._view_given[name]
    if registry == BUFFERS and name in view._view_kept and view._view_kept[name].runtime:
        return None
    tensor = own_of_width(view, name, training=False)
    if tensor is not None:
        return tensor
    tensor = view._view_wide.__dict__[registry][name]
    active_slice = view._view_slices.get(name)
    return tensor if tensor is None or active_slice is None else active_slice.take(tensor)


def read_tensor(view: Any, registry: str, name: str) -> Any:
    """What a user gets who asks for a tensor of the view: in the graph, no leaf, and changes go to the wide network."""
    if name in view._view_given:
        return view._view_given[name]
    if registry == BUFFERS and name in view._view_kept and view._view_kept[name].runtime:
        return None
    of_width = own_of_width(view, name)
    if of_width is not None:
        if name in STATISTICS and not view.training and _exporting():
            view._view_norm.require(view)
        return of_width
    tensor = view._view_wide.__dict__[registry][name]
    active_slice = view._view_slices.get(name)
    if tensor is None or (active_slice is None and registry == BUFFERS):
        return tensor
    if active_slice is not None and tensor.shape != active_slice.wide_shape:
        _check_use(view, name, tensor)
    if _exporting():
        return _exported(view, tensor, active_slice)
    handed = view._view_shared.handed
    known = handed.get(id(tensor))
    if known is not None and known._state == state_of(tensor):
        return known
    with torch.enable_grad():
        handed[id(tensor)] = t = handed_out(tensor, active_slice)
    return t


def _exporting() -> bool:
    """Whether torch.export lists parameters: it takes leaves only, and says nowhere that it is at work."""
    frame = sys._getframe(2)
    for _ in range(12):
        if frame is None:
            return False
        if frame.f_globals.get("__name__", "").startswith(EXPORT_PACKAGES):
            return True
        frame = frame.f_back
    return False


def _exported(view: Any, tensor: Tensor, active_slice: Slice | None) -> Tensor:
    known = view._view_shared.exported.get(id(tensor))
    if known is None:
        t = (tensor if active_slice is None else active_slice.take(tensor)).detach().clone()
        known = nn.Parameter(t, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else t
        view._view_shared.exported[id(tensor)] = known
    return known
