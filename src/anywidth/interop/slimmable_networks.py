"""Checkpoints of the reference code of Slimmable Networks, Universally Slimmable Networks and AutoSlim.

Their files hold one batch norm for each width where ours have one (`NAME.bn.3.weight`), number the widths without
saying which they are, and come from a wrapper (`module.`). See `docs/import.md`.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.interop.autoslim_lists import LISTS
from anywidth.interop.checkpoint_files import compare, read_state
from anywidth.interop.published import MODELS, TAIL, Published, channels_to_width, new, published
from anywidth.norms.bank import batch_norms
from anywidth.space.width import Width


def load(
    path: str | Path, model: str, widths: Sequence[Any] | None = None, *, image_size: int = 224
) -> Elastic:
    """Read a checkpoint of the reference code, released or your own.

    Args:
        path: the file; wrapped (`model`), prefixed (`module.`) or bare. Counters of batch norms may be missing.
        model: a key of `MODELS`.
        widths: what the numbers in the file stand for, in its order. By default the published widths; for a
            universal network that was trained and not calibrated (two entries) the narrowest and the widest. Where
            the file has a width twice, the first entry counts, as a look-up in the reference's list finds it.
        image_size: pixels of the square for which costs are counted.

    Returns:
        The network, ready for evaluation at these widths.

    Raises:
        CheckpointError: unreadable, of another model or of other widths, with the names that do not fit.
        WidthError: unknown model, or impossible widths.
    """
    spec = published(model)
    state = read_state(Path(path))
    width_count = _entries(state)
    # The training of a universal network keeps statistics for its two ends only; calibration makes the others.
    if widths is None and spec.norm == "shared" and width_count == 2:
        widths = [min(spec.widths), max(spec.widths)]
    net = new(model, widths, image_size=image_size)
    ratios = widths is not None and not spec.convolutions
    labels = [float(w) for w in widths or ()] if ratios else list(net.widths)
    _check_entries(path, model, width_count, labels)
    _check_distinct(path, net)
    targets = dict(_file_targets(net, spec, labels))
    report = compare(state, {key: tensors[0] for key, tensors in targets.items()})
    if not report.fits:
        raise CheckpointError(f"{path} does not fit {model}: {report}")
    with torch.no_grad():
        for key, tensors in reversed(targets.items()):  # the first entry of a width is the last one written
            for tensor in tensors:
                if key in state:
                    tensor.copy_(state[key])
    _count_(net)
    net.drop_views_()
    return net


def _entries(state: Mapping[str, Tensor]) -> int:
    """How many widths the file has batch norms of."""
    indices = [int(match[1]) for key in state if (match := re.search(r"\.bn\.(\d+)\.", key))]
    return max(indices, default=-1) + 1


def _check_entries(path: str | Path, model: str, width_count: int, labels: Sequence[Hashable]) -> None:
    if width_count == 0:
        raise CheckpointError(
            f"{path}: holds no batch norms of several widths (names like NAME.bn.0.running_mean), so it is no {model} of "
            "the reference code; for an ordinary network give source='torchvision' or 'timm'"
        )
    if width_count != len(labels):
        raise CheckpointError(
            f"{path}: holds batch norms of {width_count} widths, expected {len(labels)} ({model}); give the widths of the "
            "file in its order: widths=[...]"
        )


def _check_distinct(path: str | Path, net: Elastic) -> None:
    """One channel configuration has one batch norm here, and as many as it has numbers in the file."""
    label_by_width: dict[Width, Hashable] = {}
    for label, width in net.widths.items():
        if width in label_by_width:
            raise CheckpointError(
                f"{path}: the widths {label_by_width[width]} and {label} have the same channels, but batch norms of their own, of "
                "which a network can keep one; take one of the two out of the file"
            )
        label_by_width[width] = label


def _file_targets(
    net: Elastic, spec: Published, labels: Sequence[Hashable]
) -> Iterator[tuple[str, list[Any]]]:
    """Name in the file -> our tensors that it fills; `labels` are those of the file's numbers."""
    full_tensors = net.model.state_dict(keep_vars=True)
    norms = batch_norms(net.model)
    for name, tensor in full_tensors.items():
        # `features.0.1.weight` -> `features.0.1.bn.3.weight` for width 3, but norms whose affine pair is shared keep the
        # plain name for it.
        path, _, tensor_name = name.rpartition(".")
        if path not in norms:
            yield name, [tensor]
        elif spec.shared_tail and path.startswith(TAIL):
            yield name, [tensor, *_narrow_copies(net, name)]
        elif spec.norm == "shared" and tensor_name in ("weight", "bias"):
            yield name, [tensor]
        else:
            for index, label in enumerate(labels):
                tensors = net.norms.overrides(net.widths[label])
                yield f"{path}.bn.{index}.{tensor_name}", [tensors.get(name, tensor)]


def _narrow_copies(net: Elastic, name: str) -> list[Tensor]:
    """A tensor in the state of every narrow width that has its own."""
    narrow_tensors = (net.norms.overrides(width).get(name) for width in net.widths.values())
    return [tensor for tensor in narrow_tensors if tensor is not None]


def _count_(net: Elastic) -> None:
    """Statistics that hold something count as collected: the reference counts those of its universal networks never."""
    listed: list[tuple[Hashable, Mapping[str, Tensor]]] = [
        (label, net.norms.overrides(width) or dict(net.model.named_buffers()))
        for label, width in net.widths.items()
    ]
    for _, tensors in listed:
        for name, count in tensors.items():
            if name.endswith(".num_batches_tracked"):
                path = name.rpartition(".")[0]
                mean, variance = tensors[f"{path}.running_mean"], tensors[f"{path}.running_var"]
                fresh = bool((mean == 0).all() and (variance == 1).all())
                count.fill_(0 if fresh else max(int(count), 1))


__all__ = ["LISTS", "MODELS", "channels_to_width", "load", "new"]
