"""Try the narrow network before promising it: what fails when narrowed is frozen, and named.

Tracing learns from the wide forward only. Code may hide a size where no trace can see it (a closure, a constant in a
compiled function); running a few narrow forwards finds these places.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from anywidth.errors import TraceError
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import Policy
from anywidth.space.width import Width
from anywidth.tracing.groups import build, frozen_by_name
from anywidth.tracing.labels import Freeze
from anywidth.tracing.meta_answers import answers_on_meta
from anywidth.tracing.model_outputs import FreeOutputs, named_tensors
from anywidth.tracing.opaque_modules import open_modules
from anywidth.tracing.random_state import random_state_kept
from anywidth.tracing.trace import call, trace
from anywidth.tracing.trace_state import Walk
from anywidth.tracing.untouched import Snapshot, untouched
from anywidth.views.base import Live
from anywidth.views.baseline import baseline
from anywidth.views.blueprint import Blueprint
from anywidth.views.hooks import WideOnlyHook
from anywidth.views.temporary_tensors import hold_

_ATTEMPTS = 25


def probed_space(
    model: nn.Module,
    example: Any,
    freeze: Sequence[str] = (),
    divisor: Policy = 1,
    minimum: Policy = 1,
    free_outputs: FreeOutputs = (),
) -> ChannelSpace:
    """The channel space of `model`, tried out at narrow widths."""
    return probed(model, example, freeze, divisor, minimum, free_outputs).space


def probed(
    model: nn.Module,
    example: Any,
    freeze: Sequence[str] = (),
    divisor: Policy = 1,
    minimum: Policy = 1,
    free_outputs: FreeOutputs = (),
) -> Blueprint:
    """The channel space of `model`, tried out at narrow widths, with what views in it are made by."""
    # Trace once; then solve, try two narrow widths, freeze what failed, and solve again:
    #     width 0.5: RuntimeError in 'stage3.attn' -> freeze the elastic tensors of stage3.attn -> width 0.5: shapes (1, 10) as in the
    #     full network, random width: shapes (1, 10) -> done
    snapshot = Snapshot(model)
    walk = trace(model, example, free_outputs, snapshot)
    for overwritten in (p for n, p in model.named_parameters() if n in walk.overwritten):
        snapshot.before_write(overwritten)
    frozen, kept = frozen_by_name(walk, model, freeze), baseline(model)
    for _ in range(_ATTEMPTS):
        space = build(walk, frozen, divisor=divisor, minimum=minimum)
        blueprint = Blueprint(model, space, kept)
        failure = _failure(walk, blueprint, example, snapshot)
        if failure is None:
            return blueprint
        frozen = [*frozen, _blame(walk, space, *failure)]
    raise TraceError(
        f"{type(model).__name__} cannot be narrowed: after freezing {_ATTEMPTS} places it still fails ({failure})."
    )


def _trial_widths(space: ChannelSpace) -> list[Width]:
    generator = torch.Generator().manual_seed(0)
    return [space.uniform(0.5), space.sample(generator, low=0.3)]


def _alike(shapes: list[tuple[int, ...]], full_shapes: list[tuple[int, ...]]) -> bool:
    """Equal but for the first dimension, which may count detections."""
    return [(len(s), s[1:]) for s in shapes] == [(len(s), s[1:]) for s in full_shapes]


def _failure(walk: Walk, blueprint: Blueprint, example: Any, snapshot: Snapshot) -> tuple[str, str] | None:
    """Where and how the first narrow network failed, or gave outputs of other shapes than the full one; None if all work."""
    model, space = blueprint.model, blueprint.space
    if not space.groups:
        return None
    with (
        torch.no_grad(),
        answers_on_meta(model, example),
        random_state_kept(model, lambda: walk.random),
        _guarded(model, space),
    ):
        for width in _trial_widths(space):
            view = blueprint.build(width)
            for m in view.modules():
                if isinstance(m, Live) and m.training:
                    hold_(m, "training", False)
            try:
                with untouched(model, snapshot):
                    out = call(view, example)
            except Exception as error:
                text = str(error).strip().splitlines()
                return _place(error), f"{type(error).__name__}: {text[0] if text else ''}"
            shapes = [tuple(t.shape) for name, t in named_tensors(out) if name not in space.free_outputs]
            if walk.output_shapes is not None and not _alike(shapes, walk.output_shapes):
                return "", f"output shapes {shapes} instead of {walk.output_shapes}"
    return None


class _WideModuleRanError(RuntimeError):
    """A view called a module of the wide network, through something that no remapping reaches."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the model calls '{path}' of the wide network itself, whatever the width")
        self.path = path


class _Guard(WideOnlyHook):
    """Raises where a module of the wide network runs."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, module: nn.Module, args: Any) -> None:
        if not isinstance(module, Live):
            raise _WideModuleRanError(self.path)


@contextmanager
def _guarded(model: nn.Module, space: ChannelSpace) -> Iterator[None]:
    """If a wide module itself runs inside that owns elastic tensors, something that no mapping reaches led there: that raises."""
    owners = {name.rpartition(".")[0] for name in space.axes}
    modules = open_modules(model)
    handles = [
        m.register_forward_pre_hook(_Guard(path), prepend=True)
        for path, m in modules.items()
        if path in owners
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _place(error: BaseException) -> str:
    """The path of the innermost module of a view that was running when something failed."""
    # By the frames that the error passed through, of its cause where the model raised another one: hooks would tell it, too, but cost
    # every module of every trial more than its call.
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for e in reversed(chain):
        if isinstance(e, _WideModuleRanError):
            return e.path
        frames = [frame for frame, _ in traceback.walk_tb(e.__traceback__)]
        running = [m for frame in frames if isinstance(m := frame.f_locals.get("self"), Live)]
        if running:
            return running[-1]._view_path
    return ""


def _blame(walk: Walk, space: ChannelSpace, path: str, what: str) -> Freeze:
    """Freeze the elastic tensors of the module that failed, or of the nearest parent that has any."""
    # "layer1.0.conv1" owns nothing elastic -> "layer1.0" -> "layer1" -> "" (the whole model).
    elastic = set(space.axes)
    while True:
        blamed = {n for n in elastic if not path or n == path or n.startswith(f"{path}.")}
        if blamed or not path:
            break
        path = path.rpartition(".")[0]
    assert blamed, f"nothing is elastic, yet the narrow network differs: {what}"
    labels = [np.arange(b.start, b.start + b.size) for b in walk.ledger.blocks if b.tensor in blamed]
    return Freeze(
        labels=np.concatenate(labels), reason=f"the narrow forward fails ({what})", where=path or "<root>"
    )
