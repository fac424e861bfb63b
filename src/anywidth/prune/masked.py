"""Networks of full size in which removed channels are zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.channel_select import INDEX, selects
from anywidth.compat.layers import BatchNorm
from anywidth.compat.tracing import DispatchMode
from anywidth.compat.trees import map_only
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.prune.kept_norms import over_kept_
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width
from anywidth.tracing.groups import writing_axes
from anywidth.tracing.model_outputs import named_tensors, tensors_in
from anywidth.tracing.trace import call
from anywidth.tracing.training_mode import forget_computed_
from anywidth.views import without_graphs

_CLOSE = {"single": 1e-3, "single within double": 1e-5, "double": 1e-9}
"""Relative differences up to which two computations of a network are one; norms may compute in single precision even in double."""


def owner(net: Elastic, w: Any) -> tuple[Elastic, Width]:
    """The network that a width is of, this one or that of its selections, and the width.

    Raises:
        TraceError: the width may be of the selections, and the network knows no example inputs.
        WidthError: it is of neither.
    """
    if isinstance(w, Width) and w.names != net.space.names:
        net.example()
    of = net._of(w)
    return of, of.width(w)


def masked(net: Elastic, width: Any) -> nn.Module:
    """A copy of the wide network in which removed channels are zero: all that makes and reads them, in weights, scales and shifts.

    In evaluation it computes what `net.extract(width)` does (Network Slimming's first step); this is tried on the example inputs,
    if the network knows some. Batch norms that the width has of its own are put in the place of the wide ones, and norms that take
    statistics over channels, like LayerNorm, take them over those that are kept.

    Raises:
        WidthError: zeros cannot stand for channels that are gone, as in a softmax over channels or a weight that is divided by its
            own norm.
    """
    of, width = owner(net, width)
    masked_model = zeroed(of, width, shifts=False)
    if (
        of.norms.policy == "switchable" and not width.is_prefix
    ):  # no network can be extracted there to compare with
        return masked_model
    small = of.extract(width)
    _with_norms_(masked_model, small, of.space, width)
    over_kept_(masked_model, small, of.space, width)
    _with_numbers_(masked_model, of.space, width)
    if of.knows_example:
        _check_masked(masked_model, small, of.example(), of.space.free_outputs)
    return masked_model


@torch.no_grad()
def _with_norms_(masked_model: nn.Module, small: nn.Module, space: ChannelSpace, width: Width) -> None:
    """The scales, shifts and statistics of the extracted norms, at the channels that are kept."""
    for path, m in masked_model.named_modules():
        if not isinstance(m, BatchNorm) or selects(m):
            continue
        norm = small.get_submodule(path)
        for name in ("weight", "bias", "running_mean", "running_var"):
            wide_tensor, tensor = getattr(m, name), getattr(norm, name, None)
            kept = space.kept(f"{path}.{name}", 0, width)
            if wide_tensor is None or tensor is None:
                continue
            positions: Any = slice(None) if kept is None else torch.from_numpy(kept).to(wide_tensor.device)
            if (
                wide_tensor[positions].shape == tensor.shape
            ):  # not where an emptied group has one silent channel
                wide_tensor[positions] = tensor.to(wide_tensor)


@torch.no_grad()
def _with_numbers_(masked_model: nn.Module, space: ChannelSpace, width: Width) -> None:
    """What the model computed from its sizes when it was made, as a network of the narrow sizes has it."""
    for rule in space.numbers:
        holder: Any = masked_model.get_submodule(rule.module)
        *way, name = rule.name.split(".")  # "scale", or "config.scale"
        for part in way:
            holder = getattr(holder, part)
        setattr(holder, name, getattr(holder, name) * rule.factor(width))


def _check_masked(
    masked_model: nn.Module, small: nn.Module, example: Any, free_outputs: Collection[str]
) -> None:
    """Compare on the example: in double precision if the networks run in it, since a small difference is none of rounding then."""
    try:
        exact, exact_small = (copy.deepcopy(m).double() for m in (masked_model, small))
        exact_example = _doubled(example)
        with _Precision() as precision:
            gaps = _gaps(exact, exact_small, exact_example)
        tolerance = _CLOSE["single within double" if precision.single else "double"]
    except Exception:
        gaps, tolerance = _gaps(masked_model, small, example), _CLOSE["single"]
    for name, gap in gaps.items():
        if name not in free_outputs and gap > tolerance:
            raise WidthError(
                f"prune.masked: with zeros in the place of the removed channels, this {type(masked_model).__name__} computes something else "
                f"than without them (output '{name}', {gap:.1g} of its largest value apart), as a softmax over channels does; use net.extract(width)"
            )


class _Precision(DispatchMode):
    """Notices whether anything is computed in less than double precision."""

    single = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.single |= any(
            torch.finfo(t.dtype).bits < 64 for t in tensors_in(out) if t.is_floating_point() or t.is_complex()
        )
        return out


def _doubled(example: Any) -> Any:
    return map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, example)


@torch.no_grad()
def _gaps(masked_model: nn.Module, small: nn.Module, example: Any) -> dict[str, float]:
    """Output -> the largest difference, relative to the largest value; infinite between shapes or where only one is a number."""
    modes = [(m, m.training) for model in (masked_model, small) for m in model.modules()]
    with torch.random.fork_rng(devices=[]):
        random_state = torch.get_rng_state()
        expected = dict(named_tensors(call(small.eval(), example)))
        torch.set_rng_state(random_state)
        outputs = dict(named_tensors(call(masked_model.eval(), example)))
    for m, mode in modes:
        m.training = mode
    return {name: _gap(outputs[name], t) for name, t in expected.items()}


def _gap(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return math.inf
    if not b.numel():
        return 0.0
    a, b = (t if t.is_complex() else t.double() for t in (a, b))
    if not torch.equal(a.isnan(), b.isnan()):
        return math.inf
    difference = (
        torch.where(a == b, torch.zeros_like(a), a - b).nan_to_num(0.0, math.inf, math.inf).abs().max()
    )
    largest = b.nan_to_num(0.0, 0.0, 0.0).abs().max()
    return float(difference / largest.clamp_min(1e-30)) if difference > 0 else 0.0


@torch.no_grad()
def zeroed(net: Elastic, width: Width, *, shifts: bool) -> nn.Module:
    """`shifts`: only the scales of batch norms are zero."""
    # conv -> bn -> relu -> conv2, channel 3 removed: the row 3 of conv.weight, bn.weight[3] and bn.bias[3] are zero, so that
    # relu(bn(conv(x)))[3] = 0. With `shifts` only bn.weight[3] is zero, and the channel is the constant relu(bn.bias[3]).
    # What reads a channel is zero, too, since a channel made of zeros need not be zero: a sigmoid makes .5 of it.
    masked_model = copy.deepcopy(net.model, without_graphs(net.model))
    made = writing_axes(masked_model, net.space)
    for path, module in masked_model.named_modules():
        if selects(module):
            gone = gone_positions(net.space, f"{path}.{INDEX}", 0, width)
            if gone is not None:
                lost = module.get_buffer(INDEX)[gone.to(module.get_buffer(INDEX).device)]
                for name, t in module.named_parameters(recurse=False):
                    if name == "weight" or not shifts:
                        t[lost] = 0
            continue
        norm = isinstance(module, BatchNorm)
        # Statistics of a batch norm stay: with scale and shift zero it gives zero whatever they are.
        buffers = (
            [] if norm else [(n, b) for n, b in module.named_buffers(recurse=False) if b.is_floating_point()]
        )
        for name, t in [*module.named_parameters(recurse=False), *buffers]:
            full = f"{path}.{name}" if path else name
            if shifts and not (norm and name == "weight"):
                continue
            for dim in made.get(full, ()) if shifts else range(len(net.space.axes.get(full, ()))):
                gone = gone_positions(net.space, full, dim, width)
                if gone is not None:
                    t.index_fill_(dim, gone.to(t.device), 0)
    forget_computed_(masked_model)
    return masked_model


def gone_positions(space: ChannelSpace, tensor: str, dim: int, width: Width) -> Tensor | None:
    """Positions along an axis that a width does not keep; None if it keeps all."""
    kept = space.kept(tensor, dim, width)
    return None if kept is None or kept.all() else torch.from_numpy((~kept).nonzero()[0])
