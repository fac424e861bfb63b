"""Contiguous copies of active parts, for inference: strided weights make convolutions slower.

A copy is valid while the wide tensor is the same object, at the same place, of the same type and version. Two kinds of write
leave no such mark: writing to `.data`, and fused optimisers, after whose steps copies are valid again only once nobody has
learnt through the network in between. `Elastic.drop_views_()` forgets all copies.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from anywidth.compat.tensors import storage_address, version_of
from anywidth.views.slices import Slice

_numbers = itertools.count()
_NETWORKS = 3  # how many times the network's own bytes its copies may take


@dataclass(slots=True, frozen=True)
class Pack:
    """The active part of a wide tensor, and how that tensor was when the part was taken."""

    active: Tensor
    bytes: int  # 0 for an alias of the wide tensor
    version: int
    storage: int
    pointer: int
    dtype: torch.dtype
    learnt: int
    alive: StorageWeakRef  # while it lives, no other storage gets the address `storage`


@dataclass(slots=True)
class _Use:
    """The copies of one view: bytes, and the dicts that hold them, by id."""

    bytes: int = 0
    dicts: dict[int, dict[str, Pack]] = field(default_factory=dict)


class PackStore:
    """The packed copies of all views of a network, bounded in bytes; those of the least recently used view go first.

    Args:
        model: the wide network.

    Attributes:
        learnt: how often a tensor was read for learning.
        lock: of what is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._limit: int | None = None
        self._uses: OrderedDict[int, _Use] = OrderedDict()
        self.lock = threading.Lock()
        self.bytes = 0
        self.learnt = 0

    def next_view(self) -> int:
        """A number for a view."""
        return next(_numbers)

    @property
    def limit(self) -> int:
        """Bytes that copies may take."""
        if self._limit is None:
            self._limit = _NETWORKS * sum(t.numel() * t.element_size() for t in self._model.parameters())
        return self._limit

    def take(
        self, view: int, packs: dict[str, Pack], name: str, wide_tensor: Tensor, active_slice: Slice
    ) -> Tensor:
        """The active part of `wide_tensor`, kept in the dict `packs` of the view with the number `view` if there is room."""
        if wide_tensor.grad is not None or wide_tensor.is_inference():
            return active_slice.take(wide_tensor)
        with torch.inference_mode(False), torch.no_grad():
            t = active_slice.take(wide_tensor.detach())
            if active_slice.aliases and not t.is_contiguous():
                t = t.clone(memory_format=torch.preserve_format)
            if type(t) is not Tensor:
                return t  # made inside a mode that gives tensors of another kind
            copied = storage_address(t) != storage_address(wide_tensor)
            pack = Pack(
                active=t,
                bytes=t.numel() * t.element_size() if copied else 0,
                version=version_of(wide_tensor),
                storage=storage_address(wide_tensor),
                pointer=wide_tensor.data_ptr(),
                dtype=wide_tensor.dtype,
                learnt=self.learnt,
                alive=StorageWeakRef(wide_tensor.untyped_storage()),
            )
        with self.lock:
            self._keep(view, packs, name, pack)
        return t

    def _keep(self, view: int, packs: dict[str, Pack], name: str, pack: Pack) -> None:
        # The view that runs now is the most recently used; others give way, oldest first, until the new copy fits. A copy that
        # does not fit beside the running view's own is not kept: it is made at every call.
        use = self._uses.setdefault(view, _Use())
        self._uses.move_to_end(view)
        old = packs.pop(name, None)
        self._add(use, -old.bytes if old is not None else 0)
        while self.bytes + pack.bytes > self.limit and len(self._uses) > 1:
            self._drop(next(iter(self._uses)))
        if self.bytes + pack.bytes <= self.limit:
            packs[name] = pack
            use.dicts[id(packs)] = packs
            self._add(use, pack.bytes)

    def _add(self, use: _Use, size: int) -> None:
        use.bytes += size
        self.bytes += size

    def _drop(self, view: int) -> None:
        use = self._uses.pop(view, None)
        if use is not None:
            self._add(use, -use.bytes)
            for packs in use.dicts.values():
                packs.clear()

    def drop(self, view: int) -> None:
        """Forget the copies of a view."""
        with self.lock:
            self._drop(view)

    def clear(self) -> None:
        """Forget all copies."""
        with self.lock:
            for view in list(self._uses):
                self._drop(view)
            self._limit = None
