"""Try the narrow network before promising it: what fails when narrowed is frozen, and named.

Tracing learns from the wide forward only. Code may hide a size where no trace can see it (a closure, a constant in a
compiled function); running a few narrow forwards finds these places.
"""

from __future__ import annotations

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
from anywidth.tracing.trace import call, following, trace
from anywidth.tracing.trace_state import Walk
from anywidth.tracing.untouched import Snapshot, untouched
from anywidth.views.base import Live
from anywidth.views.blueprint import Blueprint
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
    # Trace once; then solve, try two narrow widths, freeze what failed, and solve again:
    #     width 0.5: RuntimeError in 'stage3.attn' -> freeze the elastic tensors of stage3.attn -> width 0.5: shapes (1, 10) as in the
    #     full network, random width: shapes (1, 10) -> done
    snapshot = Snapshot(model)
    walk = trace(model, example, free_outputs, snapshot)
    for overwritten in (p for n, p in model.named_parameters() if n in walk.overwritten):
        snapshot.before_write(overwritten)
    frozen = frozen_by_name(walk, model, freeze)
    for _ in range(_ATTEMPTS):
        space = build(walk, frozen, divisor=divisor, minimum=minimum)
        failure = _failure(walk, model, space, example, snapshot)
        if failure is None:
            return space
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


def _failure(
    walk: Walk, model: nn.Module, space: ChannelSpace, example: Any, snapshot: Snapshot
) -> tuple[str, str] | None:
    """Where and how the first narrow network failed, or gave outputs of other shapes than the full one; None if all work."""
    if not space.groups:
        return None
    blueprint = Blueprint(model, space)
    with (
        torch.no_grad(),
        answers_on_meta(model, example),
        random_state_kept(model, lambda: walk.random),
        _innermost(model, _elastic_modules(model, space)) as running,
    ):
        for width in _trial_widths(space):
            view = blueprint.build(width)
            for m in view.modules():
                if isinstance(m, Live):
                    hold_(m, "training", False)
            try:
                with untouched(model, snapshot):
                    out = call(view, example)
            except Exception as error:
                text = str(error).strip().splitlines()
                return running[-1], f"{type(error).__name__}: {text[0] if text else ''}"
            shapes = [tuple(t.shape) for name, t in named_tensors(out) if name not in space.free_outputs]
            if walk.output_shapes is not None and not _alike(shapes, walk.output_shapes):
                return "", f"output shapes {shapes} instead of {walk.output_shapes}"
    return None


def _elastic_modules(model: nn.Module, space: ChannelSpace) -> dict[int, str]:
    """Modules of the wide network that own elastic tensors."""
    owners = {name.rpartition(".")[0] for name in space.axes}
    return {id(m): path for path, m in open_modules(model).items() if path in owners}


class _WideModuleRanError(RuntimeError):
    """A view called a module of the wide network, through something that no remapping reaches."""


@contextmanager
def _innermost(model: nn.Module, elastic: dict[int, str]) -> Iterator[list[str]]:
    """The path of the innermost module that was running when an exception passed.

    Hooks of the wide network's modules run for those of the view too; if a wide module itself runs that owns elastic tensors,
    something that no mapping reaches led there.
    """
    stack = [""]

    def enter(module: nn.Module) -> None:
        stack.append(module._view_path if isinstance(module, Live) else elastic.get(id(module), stack[-1]))
        if id(module) in elastic:
            raise _WideModuleRanError(
                f"the model calls '{elastic[id(module)]}' of the wide network itself, whatever the width"
            )

    def leave() -> None:
        stack.pop()

    with following(model, enter, leave):
        yield stack


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
