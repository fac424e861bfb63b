"""The tie between a view and the wide tensors: gradients that go back, copies that are renewed, ties that broke."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import _disable_current_modes

from anywidth.errors import StaleViewError
from anywidth.view.slices import Cut

_LEARNS = operator.attrgetter("requires_grad")
_steps: list[int] = []  # optimiser steps of this process: fused ones do not count in a tensor's version


def _count_steps() -> None:
    if not _steps:
        _steps.append(0)
        register_optimizer_step_post_hook(lambda *args: operator.setitem(_steps, 0, _steps[0] + 1))


def _give(wide: Tensor, part: Cut | None, leaf: Tensor) -> None:
    """Add a leaf's gradient into the wide parameter's and drop it."""
    grad, leaf.grad = leaf.grad, None
    assert grad is not None
    if part is None:
        if wide.grad is None:
            wide.grad = grad
        else:
            wide.grad.add_(grad)
        return
    if wide.grad is None:
        wide.grad = torch.zeros_like(wide)
    part.add_(wide.grad, grad)


def leaf_of(wide: nn.Parameter, part: Cut | None) -> nn.Parameter:
    """A parameter whose data is the active part of `wide` and whose gradient goes there.

    Slices share the wide tensor's version counter, so autograd notices an update between forward and backward.
    """
    with torch.no_grad():
        data = wide.detach() if part is None else part.of(wide.detach())
    leaf = torch.Tensor._make_subclass(type(wide), data, wide.requires_grad)
    if wide.requires_grad:
        leaf.register_post_accumulate_grad_hook(partial(_give, wide, part))
    return leaf


class Copy:
    """The active part of a wide tensor held as a copy: gathered axes always, strided slices during inference."""

    __slots__ = ("leaf", "mine", "packed", "part", "slice", "steps", "version", "wide")

    def __init__(self, leaf: nn.Parameter, wide: nn.Parameter, part: Cut) -> None:
        self.leaf, self.wide, self.part = leaf, wide, part
        self.slice = leaf.data
        self.packed: Tensor | None = None
        self.mark()

    def mark(self) -> None:
        self.version, self.mine, self.steps = self.wide._version, self.leaf._version, _steps[0]

    @property
    def old(self) -> bool:
        return self.version != self.wide._version or self.steps != _steps[0]

    def gather(self, *, always: bool) -> None:
        """Renew a gathered leaf; what was written into it goes to the wide tensor first."""
        if self.mine != self.leaf._version:
            self.push()
        elif always or self.old:
            self.leaf.data.copy_(self.part.of(self.wide.data))
            self.mark()

    def push(self) -> None:
        self.part.write_(self.wide.data, self.leaf.data)
        torch.autograd.graph.increment_version(self.wide)
        self.mark()

    def pack(self) -> None:
        if self.packed is None or self.old:
            self.packed = self.slice.clone(memory_format=torch.preserve_format)
            self.mark()
        self.leaf.data = self.packed

    def unpack(self) -> None:
        self.leaf.data = self.slice


class Link:
    """What a view knows of its origin. Only its root has one."""

    def __init__(
        self,
        slots: Sequence[tuple[dict, str]],
        links: Sequence[tuple[dict, str]],
        before: Sequence[Callable[[nn.Module], None]],
    ) -> None:
        _count_steps()
        self.places = [d for d, _ in (*slots, *links)]
        self.keys = [n for _, n in (*slots, *links)]
        self.origins = list(map(dict.get, self.places, self.keys))
        self.tensors: list[Tensor] = [d[n] for d, n in slots]
        self.parameters = [t for t in self.tensors if isinstance(t, nn.Parameter)]
        self.pointers = list(map(Tensor.data_ptr, self.tensors))
        self.learning = list(map(_LEARNS, self.parameters))
        self.gathered: list[Copy] = []
        self.strided: list[Copy] = []
        self.before = before
        self.packing = False
        self.plain_hooks: dict[str, Any] = {}

    @property
    def fresh(self) -> bool:
        """Whether the wide network still has the tensors and modules this view was made from."""
        return (
            all(map(operator.is_, map(dict.get, self.places, self.keys), self.origins))
            and list(map(Tensor.data_ptr, self.tensors)) == self.pointers
            and list(map(_LEARNS, self.parameters)) == self.learning
        )

    def keep(self, leaf: nn.Parameter, wide: nn.Parameter, part: Cut) -> None:
        """Remember a leaf that is, or may for a while be, a copy."""
        if not part.aliases:
            self.gathered.append(Copy(leaf, wide, part))
        elif not leaf.is_contiguous():
            self.strided.append(Copy(leaf, wide, part))

    def enter(self, view: nn.Module, args: Any) -> None:
        """Before every forward of the view."""
        if torch.compiler.is_dynamo_compiling():
            _outside(self, view)  # pyright: ignore[reportCallIssue]
        elif torch.compiler.is_compiling():
            with _disable_current_modes():
                self.check(view)
        else:
            self.check(view)
            inference = not (view.training or torch.is_grad_enabled())
            self.renew(always=not inference)
            if inference and self.strided:
                with torch.inference_mode(False), torch.no_grad():
                    self.packing = True
                    for c in self.strided:
                        c.pack()

    def leave(self, view: nn.Module, args: Any, out: Any) -> None:
        """After every forward, failed ones too: outside, a view aliases the wide network."""
        if not torch.compiler.is_compiling() and self.packing:
            self.packing = False
            with torch.inference_mode(False), torch.no_grad():
                for c in self.strided:
                    c.unpack()

    def check(self, view: nn.Module) -> None:
        if not self.fresh:
            raise StaleViewError(
                f"this view of {type(view).__name__} aliases tensors that the wide network no longer has (it was moved, cast, "
                "or its parameters were replaced, frozen or unfrozen). Call net.at(width) again."
            )
        for check in self.before:
            check(view)

    def renew(self, *, always: bool = True) -> None:
        """Gathered copies that hold older weights than the wide network."""
        for c in self.gathered:
            c.gather(always=always)

    def push(self) -> None:
        """What was loaded into gathered copies, written to the wide network; slices are there already."""
        for c in self.gathered:
            c.push()
        for t in self.tensors:
            torch.autograd.graph.increment_version(t)


@torch.compiler.disable
def _outside(link: Link, view: nn.Module) -> None:
    """The same before a forward that is being compiled: checked and renewed at every call, not once in the graph."""
    link.check(view)
    link.renew()


def link_of(view: nn.Module) -> Link | None:
    """The link of a view's root; None for any other module."""
    return view.__dict__.get("_anywidth_link")
