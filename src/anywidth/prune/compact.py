"""From a width to compact networks, with or without the shifts of removed channels folded in."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.channel_select import INDEX, handed_on, select_first_, selects
from anywidth.compat.layers import BatchNorm, Convolution, convolve
from anywidth.compat.trees import map_only
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.graph.emptied_groups import Constant, with_silent
from anywidth.norms.stream_selection import fed_by
from anywidth.prune.masked import gone_positions, owner, zeroed
from anywidth.space.width import Width
from anywidth.tracing.trace import call
from anywidth.views import cut, without_graphs

_FLAT = 1e-4
"""A channel whose spread is below this share of its size is constant."""


def kept_by_norm(net: Elastic, width: Width) -> dict[str, int]:
    """Path of every batch norm -> channels that it hands on (the `cfg` of Network Slimming), in the model's order."""
    of, width = owner(net, width)
    kept_channels = {}
    for path, m in of.model.named_modules():
        if isinstance(m, BatchNorm):
            gone = gone_positions(of.space, f"{path}.{INDEX if selects(m) else 'running_mean'}", 0, width)
            kept_channels[path] = handed_on(m) - (0 if gone is None else gone.numel())
    return kept_channels


def compact(
    net: Elastic, width: Any, *, fold: bool = True, batches: Iterable[Any] | None = None, narrow: bool = True
) -> nn.Module:
    """The stand-alone network at a width, compensated for what the removed channels contributed.

    Args:
        net: not changed.
        width: of `plan`, or any other.
        fold: a removed channel with scale 0 still hands its shift on, as a constant: what that adds to the layers that
            read it, on the average over positions, goes into the batch norm behind them, or into their bias (made where
            there is none). Exact for a scale of 0 but for what zero padding does at borders. Left out: channels behind a gate
            that depends on the input, and transposed, grouped or re-parametrised convolutions.
        batches: inputs, or tuples whose first entry is the input: the removed channels' mean activations over them are made up
            for, in place of their shifts; this also serves channels without a batch norm.
        narrow: norms that select hold their selected channels only; False: all of them, as the published pruned files do.

    Returns:
        an ordinary module in the mode of `net`.

    Source: the removed channels' relu(shift) is the sole source of the accuracy that Network Slimming loses when scales
    are near 0.
    """
    of, own_width = owner(net, width)
    small = of.extract(own_width)
    if fold:
        fold_(of, own_width, small, batches)
    if narrow:
        select_first_(small)
    return small


@torch.no_grad()
def fold_(net: Elastic, width: Width, small: nn.Module, batches: Iterable[Any] | None = None) -> list[str]:
    """Add to `small` what the removed channels had added; see `compact`.

    Returns:
        layers that got a bias they had not.
    """
    # A removed channel that is constantly c adds w c to the output of every layer that reads it (w: the sum of its kernel). Behind
    # a batch norm that equals running_mean - w c; without one it goes into the bias. A layer that runs several times in a forward
    # always takes the bias.
    shifts = _constants(net, width, batches)
    if not shifts:
        return []
    example = net.example()
    fed = [(layer, norm) for norm, layer in fed_by(small, example).items() if layer is not None]
    norm_of = {layer: norm for layer, norm in fed if sum(layer == other_layer for other_layer, _ in fed) == 1}
    biased = []
    for path, (shift, repeated) in shifts.items():
        layer: Any = small.get_submodule(path)
        weight_cut = cut(net.space, f"{path}.weight", with_silent(width))
        rows = weight_cut.axis_parts[0] if weight_cut is not None else None
        shift = shift if rows is None else shift[rows]
        # An emptied layer writes nothing.
        if isinstance(layer, Constant) and layer.channels != shift.numel():
            continue
        norm = small.get_submodule(norm_of[path]) if path in norm_of and not repeated else None
        mean = norm.running_mean if isinstance(norm, BatchNorm) else None
        if mean is not None:
            mean -= shift.to(mean)
            continue
        weight = next(net.model.get_submodule(path).parameters())
        if layer.bias is None:
            zeros = torch.zeros(shift.numel(), dtype=weight.dtype, device=weight.device)
            layer.bias = nn.Parameter(zeros, weight.requires_grad)
            biased.append(path)
        layer.bias += shift.to(layer.bias)
    return biased


def _constants(net: Elastic, width: Width, batches: Iterable[Any] | None) -> dict[str, tuple[Tensor, bool]]:
    """Layer -> (outputs,) what its removed inputs add to it, the mean over positions (zero padding included), images and
    calls; and whether it is called several times in a forward."""
    # Per layer that reads removed channels: run the wide network, take these channels from the layer's input (N, R, H, W), and
    # apply the layer's kernel for them alone: (N, outputs, H, W), mean over all but the outputs.
    # Without batches the removed channels are constants, or count as none: two different inputs show which ones they are.
    lost: dict[str, Tensor] = {}
    for path, m in net.model.named_modules():
        if isinstance(m, nn.Linear) or (isinstance(m, Convolution) and m.groups == 1 and not m.transposed):
            gone = gone_positions(net.space, f"{path}.weight", 1, width)
            if gone is not None:
                lost[path] = gone
    if not lost:
        return {}
    source: nn.Module = (
        zeroed(net, width, shifts=True)
        if batches is None
        else copy.deepcopy(net.model, without_graphs(net.model))
    )
    wide_parameters = dict(net.model.named_parameters())
    recorded: dict[str, list[Tensor]] = {}

    def watch(path: str) -> Any:
        def add(module: nn.Module, args: Any) -> None:
            activation = _of(module, args[0].detach(), lost[path])
            # Over data only the mean is kept: the activations of all batches would not fit in memory.
            if batches is not None:
                activation = _mean_output(
                    module, activation, wide_parameters[f"{path}.weight"].detach(), lost[path]
                )
            recorded.setdefault(path, []).append(activation)

        return add

    for path in lost:
        source.get_submodule(path).register_forward_pre_hook(watch(path))
    source.eval()
    device = next(source.parameters()).device
    runs = 0
    for batch in _two(net.example()) if batches is None else batches:
        x = batch[0] if batches is not None and isinstance(batch, list | tuple) else batch
        call(source, x if batches is None else x.to(device))
        runs += 1
    if not runs:
        raise WidthError("prune: fold got no batch; give batches=[x1, x2, ...], or none to use the shifts")
    constants = {}
    for path, activations in recorded.items():
        if batches is None:
            layer, weight = source.get_submodule(path), wide_parameters[f"{path}.weight"].detach()
            constant = _constant(layer, activations)
            activations = [
                _mean_output(layer, activation * constant, weight, lost[path]) for activation in activations
            ]
        mean = torch.stack(activations).mean(0)
        if bool(mean.abs().max() > 0):
            constants[path] = mean, len(activations) > runs
    return constants


def _channels(layer: nn.Module, x: Tensor) -> int:
    """The dimension of the channels that a layer reads."""
    return x.ndim - 1 if isinstance(layer, nn.Linear) else 1


def _of(layer: nn.Module, x: Tensor, gone: Tensor) -> Tensor:
    return x.index_select(_channels(layer, x), gone.to(x.device))


def _constant(layer: nn.Module, activations: Sequence[Tensor]) -> Tensor:
    """1 for channels that are the same everywhere, in all of `parts`, else 0; of a shape that broadcasts to them.

    A channel that varies is not a shift: it has no norm, or it is behind a gate that depends on the input.
    """
    # Channels with values (0.5, 0.5) and (1.0, 2.0) over all positions: spread 0 and 1 -> 1 and 0.
    dim = _channels(layer, activations[0])
    rows = torch.cat([activation.movedim(dim, 0).flatten(1) for activation in activations], 1)
    spread, size = rows.amax(1) - rows.amin(1), rows.abs().amax(1)
    holds = (spread <= _FLAT * size).to(activations[0])
    return holds.reshape([-1 if d == dim else 1 for d in range(activations[0].ndim)])


def _two(example: Any) -> list[Any]:
    """The example inputs, and others of the same form."""
    perturbed = map_only(
        Tensor, lambda t: (t.flip(-1) * -0.7 + 0.3).to(t.dtype) if t.is_floating_point() else t, example
    )
    return [example, perturbed]


def _mean_output(layer: nn.Module, inputs: Tensor, weight: Tensor, gone: Tensor) -> Tensor:
    """(outputs,) what the inputs `gone` add to a layer's output, the mean over positions and images."""
    kernel = weight.index_select(1, gone.to(weight.device))
    if isinstance(layer, Convolution):
        out = convolve(layer, inputs, kernel, None)
    else:
        out = torch.nn.functional.linear(inputs, kernel)
    return out.double().mean([d for d in range(out.ndim) if d != _channels(layer, out)])
