"""An ordinary checkpoint as the widest network, with its important channels first."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.interop.checkpoint_files import Report, compare, read_state, take_
from anywidth.reorder import reorder_
from anywidth.tracing.groups import writing_axes
from anywidth.views import cut


def load_wide_(net: Elastic, path: str | Path, *, sort: bool = True) -> Report:
    """Give the widest network the weights of an ordinary checkpoint of its model (torchvision, timm, your own).

    With `sort`, channels are brought into the order of falling importance, so that narrow widths keep the important
    ones; the widest network computes the same as before. Statistics of narrow widths are dropped: train or calibrate;
    switchable affine pairs begin as slices of the checkpoint's.

    Args:
        net: changed in place.
        path: .pt, .pth, .bin or .safetensors; wrapped or prefixed names are understood.
        sort: reorder channels by the sum of absolute weights that make them.

    Returns:
        How many tensors were taken.

    Raises:
        CheckpointError: unreadable, or of another model; the network is unchanged then.

    Source: importance as in Li et al., arXiv 1608.08710, section 3.1; sorted as in Cai et al., arXiv 1908.09791.
    """
    state = read_state(Path(path))
    report = compare(state, net.model.state_dict())
    if not report.fits:
        raise CheckpointError(f"{path} does not fit {type(net.model).__name__}: {report}")
    take_(net.model, state)
    if sort:
        # The wide network alone: narrow widths that own norms would forbid it, but theirs start over in any case.
        shared_norm_net = Elastic(net.model, norm="shared", space=net.space)
        reorder_(shared_norm_net, importance_order(net))
    _start_over_(net)
    return report


@torch.no_grad()
def _start_over_(net: Elastic) -> None:
    """Narrow widths as if listed now: no statistics, and affine pairs that are slices of the wide network's."""
    full_parameters = dict(net.model.named_parameters())
    for width in list(net.norms.statistics):
        net.norms.forget_(width)
        for name, narrow_tensor in net.norms.overrides(width).items():
            if name in full_parameters:
                slicing = cut(net.space, name, width)
                narrow_tensor.copy_(
                    full_parameters[name] if slicing is None else slicing.of(full_parameters[name])
                )
    net.drop_views_()


def importance_order(net: Elastic) -> dict[str, list[int]]:
    """Units of every group that may be reordered, the most important first: L1 norm of the weights that make them."""
    tensors: dict[str, Tensor] = dict(net.model.named_parameters())
    writing = writing_axes(net.model, net.space)
    scores = [torch.zeros(group.size, dtype=torch.float64) for group in net.space.groups]
    places = [(name, dim) for name, dims in writing.items() for dim in dims if name in tensors]
    for name, dim in places:
        parameter, axis = tensors[name], net.space.axis(name, dim)
        if parameter.ndim < 2 or axis is None:
            continue
        # (64, 32, 3, 3) -> (64,): the sum over the 32 * 3 * 3 weights that make each output channel.
        sizes = parameter.detach().abs().double().transpose(0, dim).flatten(1).sum(1).cpu()
        start = 0
        for run in axis:
            # An axis is a sequence of runs, each of one group (or fixed, -1); `each` positions belong to one unit.
            run_norms = sizes[start : start + run.positions]
            start += run.positions
            if run.group >= 0:
                scores[run.group][run.first : run.first + run.count] += run_norms.view(
                    run.count, run.each
                ).sum(1)
    return {
        group.name: score.argsort(descending=True, stable=True).tolist()
        for group, score in zip(net.space.groups, scores, strict=True)
        if group.permutable
    }
