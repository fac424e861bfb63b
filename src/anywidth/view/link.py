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
_VERSION = operator.attrgetter("_version")
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


class Gathered:
    """A leaf that holds a copy of the active part of a wide tensor, because that part is no slice."""

    def __init__(self, leaf: nn.Parameter, wide: nn.Parameter, part: Cut) -> None:
        self.leaf, self.wide, self.part = leaf, wide, part
        self._mark()

    def _mark(self) -> None:
        self.version, self.mine, self.steps = self.wide._version, self.leaf._version, _steps[0]

    def renew(self, *, always: bool) -> None:
        """Take the wide tensor's elements again if they may have changed; what was written here goes there first."""
        if self.mine != self.leaf._version:
            self.push()
        elif always or self.version != self.wide._version or self.steps != _steps[0]:
            self.leaf.data.copy_(self.part.of(self.wide.data))
            self._mark()

    def push(self) -> None:
        """Write the copy back."""
        self.part.write_(self.wide.data, self.leaf.data)
        torch.autograd.graph.increment_version(self.wide)
        self._mark()


class Packs:
    """Contiguous copies of strided slices, lent to their leaves for the time of one forward in inference."""

    def __init__(self) -> None:
        self.leaves: list[nn.Parameter] = []
        self.wides: list[Tensor] = []
        self.slices: list[Tensor] = []
        self.copies: list[Tensor] = []
        self.state: list[int] = []
        self.lent = False

    def add(self, leaf: nn.Parameter, wide: nn.Parameter) -> None:
        self.leaves.append(leaf)
        self.wides.append(wide)
        self.slices.append(leaf.data)

    def lend(self) -> None:
        now = [_steps[0], *map(_VERSION, self.wides)]
        if now != self.state:
            self.copies = [s.clone(memory_format=torch.preserve_format) for s in self.slices]
            self.state = now
        self.lent = True
        for leaf, t in zip(self.leaves, self.copies, strict=True):
            leaf.data = t

    def take_back(self) -> None:
        self.lent = False
        for leaf, t in zip(self.leaves, self.slices, strict=True):
            leaf.data = t


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
        self.gathered: list[Gathered] = []
        self.packs = Packs()
        self.before = before
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
            self.gathered.append(Gathered(leaf, wide, part))
        elif not leaf.is_contiguous():
            self.packs.add(leaf, wide)

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
            if inference and self.packs.leaves:
                with torch.inference_mode(False), torch.no_grad():
                    self.packs.lend()

    def leave(self, view: nn.Module, args: Any, out: Any) -> None:
        """After every forward, failed ones too: outside, a view aliases the wide network."""
        if not torch.compiler.is_compiling() and self.packs.lent:
            with torch.inference_mode(False), torch.no_grad():
                self.packs.take_back()

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
            c.renew(always=always)

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
