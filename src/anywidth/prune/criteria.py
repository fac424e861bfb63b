"""What says how important channels are: one small function per criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.channel_select import INDEX, selects
from anywidth.compat.layers import BatchNorm
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.import_path import find
from anywidth.seeds import generator
from anywidth.space.axes import Axis, Run
from anywidth.space.channel_space import ChannelSpace
from anywidth.tracing.groups import made_axes, writing_axes

Judged = Iterable[tuple[Axis, np.ndarray]]
"""Axes that make channels, each with one number per position."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A tensor that makes channels.

    Attributes:
        module: path of its module.
        rows: (positions, ...) float64, one row per channel along the axis that makes them.
        gradient: of the same shape, or None.
        axis: what the positions are.
    """

    module: str
    rows: Tensor
    gradient: Tensor | None
    axis: Axis


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What says how important channels are, and what it needs for that.

    Attributes:
        judge: network, batches or None, seed -> one number per position of every axis that it can judge.
        comparable: whether its numbers mean the same in all layers; else they are divided by their mean in each group.
        needs_gradients: whether it looks at gradients, which a backward pass before must have left.
        needs_batches: whether it runs the network on `batches`.
    """

    judge: Callable[[Elastic, Iterable[Any] | None, int], Judged]
    comparable: bool = False
    needs_gradients: bool = False
    needs_batches: bool = False

    def __call__(self, net: Elastic, batches: Iterable[Any] | None = None, seed: int = 0) -> Judged:
        return self.judge(net, batches, seed)


def criterion_of_sources(score: Callable[[Source], np.ndarray], **properties: bool) -> Criterion:
    """A criterion that looks at one weight at a time.

    Args:
        score: source -> (positions,) float64, larger is more important.
        properties: of `Criterion`.
    """

    def judge(net: Elastic, batches: Iterable[Any] | None, seed: int) -> Judged:
        return [(source.axis, score(source)) for source in _sources(net.model, net.space)]

    return Criterion(judge=judge, **properties)


def criterion_of(criterion: str | Criterion | Callable[[Source], np.ndarray]) -> Criterion:
    """A criterion by its name, by that of the user's own ("package.module:function"), or as it is.

    Raises:
        WidthError: no such name.
        RecipeError: no such module or function.
    """
    if isinstance(criterion, str) and ":" not in criterion and criterion not in CRITERIA:
        raise WidthError(
            f"prune: unknown criterion {criterion!r}; use one of {', '.join(CRITERIA)}, or your own as 'package.module:function'"
        )
    resolved = find("criterion", criterion, CRITERIA) if isinstance(criterion, str) else criterion
    return resolved if isinstance(resolved, Criterion) else criterion_of_sources(resolved)


def _scales(model: nn.Module, space: ChannelSpace) -> Iterator[tuple[Axis, np.ndarray]]:
    """|scale| of every batch norm, along the axis of its channels, or of those it selects."""
    for path, m in model.named_modules():
        if not isinstance(m, BatchNorm) or m.weight is None:
            continue
        scale = m.weight.detach().abs().double().cpu()
        axis = space.axis(f"{path}.{INDEX if selects(m) else 'weight'}", 0)
        if selects(m):
            scale = scale[m.get_buffer(INDEX).cpu()]
        if axis is not None:
            yield axis, scale.numpy()


def _sources(model: nn.Module, space: ChannelSpace) -> Iterator[Source]:
    """Parameters that make channels, these first: of layers, recurrent ones too, raw parameters and embeddings.

    Not biases and scales, which have one number per channel and no rows to compare.
    """
    writing = writing_axes(model, space)
    for name, p in model.named_parameters():
        for dim in writing.get(name, ()) if p.ndim > 1 else ():
            axis = space.axis(name, dim)
            assert axis is not None
            rows = p.detach().double().cpu().movedim(dim, 0)
            gradient = None if p.grad is None else p.grad.detach().double().cpu().movedim(dim, 0)
            yield Source(
                module=name.rpartition(".")[0],
                rows=rows.flatten(1),
                gradient=None if gradient is None else gradient.flatten(1),
                axis=axis,
            )


def _l1(source: Source) -> np.ndarray:
    return source.rows.abs().sum(1).numpy()


def _l2(source: Source) -> np.ndarray:
    return source.rows.norm(dim=1).numpy()


def _lamp(source: Source) -> np.ndarray:
    # Norms 1, 2, 3: squares 1, 4, 9; each over the sum of those not smaller: 1 / 14, 4 / 13, 9 / 9 = 0.071, 0.308, 1.
    squares = source.rows.square().sum(1)
    ordered, order = squares.sort(stable=True)
    above = ordered.flip(0).cumsum(0).flip(0)
    lamp_scores = torch.empty_like(squares)
    lamp_scores[order] = ordered / above.clamp_min(torch.finfo(torch.float64).tiny)
    return lamp_scores.numpy()


def _fpgm(source: Source) -> np.ndarray:
    # Filters (1, 0), (1, 1), (5, 0): distances 1 + 4, 1 + 4.1, 4 + 4.1. The first two are near the others' middle, and so
    # replaceable by them; norms, 1, 1.4 and 5, would keep the same one here, but not where filters repeat.
    return torch.cdist(source.rows, source.rows).sum(1).numpy()


def _taylor(source: Source) -> np.ndarray:
    if source.gradient is None:
        raise WidthError(
            f"prune: criterion 'taylor' needs gradients and '{source.module}' has none; run loss = criterion(net(x), y); "
            "loss.backward() over some batches first"
        )
    # Weight (2, -1), gradient (0.1, 0.3): (0.2)^2 + (-0.3)^2 = 0.13, how much the loss would change, to first order and squared.
    return (source.rows * source.gradient).square().sum(1).numpy()


@torch.no_grad()
def _activations(net: Elastic, batches: Iterable[Any] | None) -> Iterator[tuple[Axis, np.ndarray]]:
    """Mean |output| per channel of the layers that make them."""
    if batches is None:
        raise WidthError("prune: criterion 'activation' needs inputs to run; give batches=[x1, x2, ...]")
    outputs = {
        name.rpartition(".")[0]: net.space.axis(name, dim) for name, dim in made_axes(net.model).items()
    }
    axes = {path: axis for path, axis in outputs.items() if axis is not None}
    totals: dict[str, Tensor] = {}
    hooks = []
    for path, m in net.model.named_modules():
        if path in axes:

            def watch(module: nn.Module, args: Any, out: Any, path: str = path) -> None:
                if isinstance(out, Tensor):
                    dim = out.ndim - 1 if isinstance(module, nn.Linear) else 1
                    mean = out.detach().abs().double().mean([d for d in range(out.ndim) if d != dim]).cpu()
                    totals[path] = totals.get(path, torch.zeros_like(mean)) + mean

            hooks.append(m.register_forward_hook(watch))
    modes = {m: m.training for m in net.modules()}
    device = next((p.device for p in net.model.parameters()), torch.device("cpu"))
    batch_count = 0
    try:
        net.eval()
        for batch in batches:
            x = batch[0] if isinstance(batch, list | tuple) else batch
            net(x.to(device))
            batch_count += 1
    finally:
        for m, mode in modes.items():
            m.training = mode
        for hook in hooks:
            hook.remove()
    if not batch_count:
        raise WidthError("prune: criterion 'activation' got no batch to run; give batches=[x1, x2, ...]")
    # A layer whose output was reshaped before the hook saw it (heads beside channels) has another number of entries: it is not judged.
    for path, total in totals.items():
        if total.numel() == sum(r.positions for r in axes[path]):
            yield axes[path], (total / batch_count).numpy()


def _of_norms(net: Elastic, batches: Iterable[Any] | None, seed: int) -> Judged:
    judged = list(_scales(net.model, net.space))
    if not judged:
        raise WidthError(
            f"prune: criterion 'bn_scale' needs batch norms with a scale on a channel group, and {type(net.model).__name__} "
            "has none; use criterion='l2' or 'taylor'"
        )
    return judged


def _of_activations(net: Elastic, batches: Iterable[Any] | None, seed: int) -> Judged:
    return list(_activations(net, batches))


def _at_random(net: Elastic, batches: Iterable[Any] | None, seed: int) -> Judged:
    draw = generator(seed, 4)
    return [
        (_units(net.space, g), torch.rand(group.size, generator=draw, dtype=torch.float64).numpy())
        for g, group in enumerate(net.space.groups)
    ]


def _in_order(net: Elastic, batches: Iterable[Any] | None, seed: int) -> Judged:
    # 4 units: 0.875, 0.625, 0.375, 0.125; 2 units: 0.75, 0.25. A global ratio of 1/2 takes the last half of both.
    return [
        (_units(net.space, g), 1 - (np.arange(group.size) + 0.5) / group.size)
        for g, group in enumerate(net.space.groups)
    ]


def _units(space: ChannelSpace, group: int) -> Axis:
    """An axis with one position for each unit of a group."""
    return (Run(group, 0, space.groups[group].size, 1),)


CRITERIA: Mapping[str, Criterion] = {
    "bn_scale": Criterion(judge=_of_norms, comparable=True),
    "l1": criterion_of_sources(_l1),
    "l2": criterion_of_sources(_l2),
    "taylor": criterion_of_sources(_taylor, comparable=True, needs_gradients=True),
    "fpgm": criterion_of_sources(_fpgm),
    "lamp": criterion_of_sources(_lamp, comparable=True),
    "random": Criterion(judge=_at_random, comparable=True),
    "activation": Criterion(judge=_of_activations, needs_batches=True),
    "uniform": Criterion(judge=_in_order, comparable=True),
}
