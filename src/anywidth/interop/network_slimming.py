"""Checkpoints of the reference code of Network Slimming: full, pruned (compact or masked) and fine-tuned networks.

In their compact files of networks with a residual or dense stream, a norm is as wide as the stream and a vector of
zeros and ones says which of its channels the next convolution reads. Ours hold the positions (`anywidth.channel_select`).
See `docs/import.md`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.interop.checkpoint_files import Report, compare, read_beside
from anywidth.interop.network_slimming_names import (
    FAMILIES,
    MODELS,
    SELECT,
    Family,
    check_family,
    family_of,
    reference_name,
)

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


def _options(name: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Arguments of our class that the shapes tell, other than the depth and the channels."""

    def size(key: str, dim: int) -> int:
        if key not in state or state[key].ndim <= dim:
            shape = f"; it is {list(state[key].shape)}" if key in state else ""
            raise CheckpointError(f"'{key}' of a convolution or linear layer is missing{shape}")
        return state[key].shape[dim]

    options = {"num_classes": size(FAMILIES[name].head_weight, 0)}
    if name == "densenet":
        options |= {"stem": size("conv1.weight", 0), "growth": size("dense1.0.conv1.weight", 0)}
    if name == "vgg_a":  # each map of the last convolution has side x side columns
        # 25088 columns for 512 maps are 7 x 7 pixels each, so images had 7 * 32 = 224 pixels.
        columns, maps = size("classifier.0.weight", 1), size("features.25.weight", 0)
        options["image_size"] = 32 * max(1, math.isqrt(columns // max(1, maps)))
    return options


def _fits(report: Report, model: str) -> None:
    if not report.fits:
        raise CheckpointError(f"does not fit {model}: {report}")


def _built(build: Callable[..., nn.Module], model: str, **options: Any) -> nn.Module:
    try:
        return build(**options)
    except ValueError as error:
        raise CheckpointError(f"{model}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The tensors of a full network, by their names in the files.

    Attributes:
        tensors: all of them but the vectors that select.
        norms: the batch norms, in the order of `channels`.
        vectors: norm -> vector that says which of its channels are read.
    """

    tensors: Mapping[str, Tensor]
    norms: tuple[str, ...]
    vectors: Mapping[str, str]


def _layout(family: Family, full: nn.Module) -> _Layout:
    norm_paths = [n for n, m in full.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    norms = tuple(reference_name(family, f"{n}.").removesuffix(".") for n in norm_paths)
    vectors = {n: reference_name(family, f"{o}.index") for n, o in zip(norms, norm_paths, strict=True)}
    return _Layout(
        tensors={reference_name(family, n): t for n, t in full.state_dict().items()},
        norms=norms,
        vectors={n: v for n, v in vectors.items() if v.endswith(SELECT)},
    )


def _check_layout(state: Mapping[str, Tensor], layout: _Layout, model: str) -> None:
    """All names, and the shapes that pruning leaves: of norms before a selection all, of others the number of axes.

    Vectors that select are all there, or none is.
    """
    expected = dict(layout.tensors)
    if any(v in state for v in layout.vectors.values()):
        expected |= {v: layout.tensors[f"{norm}.weight"] for norm, v in layout.vectors.items()}
    report = compare(state, expected)
    full_size = {f"{norm}.{suffix}" for norm in layout.vectors for suffix in _NORM_TENSORS} | set(
        layout.vectors.values()
    )
    mismatched = tuple(m for m in report.mismatched if m[0] in full_size or len(m[1]) != len(m[2]))
    _fits(replace(report, mismatched=mismatched), model)


def _kept(state: Mapping[str, Tensor], vector: str) -> Tensor:
    """(K,) positions that a vector selects, int64.

    Raises:
        CheckpointError: there are none.
    """
    # (1, 0, 1, 1) -> (0, 2, 3).
    kept = state[vector].nonzero().flatten()
    if len(kept) == 0:
        raise CheckpointError(
            f"'{vector}' selects none of {len(state[vector])} channels: pruning emptied this layer, and the network cannot "
            "run; prune less, or take the masked file"
        )
    return kept


def _check_cfg(cfg: Any, channels: Sequence[int], live: Sequence[int], norms: Sequence[str]) -> None:
    """The list that a file has beside its tensors: their channels, or, in a masked file, the scales that are not 0."""
    # Two norms of 64 and 128 channels, with 40 and 100 scales other than 0. A masked file keeps tensors of 64 and
    # 128 rows and lists [40, "M", 100]; the compact one made from it has 40 and 100 rows and lists the same.
    numbers = [c for c in cfg if c != "M"] if isinstance(cfg, list | tuple) else []
    if len(numbers) != len(channels) or not all(isinstance(c, int) for c in numbers):
        raise CheckpointError(f"cfg: expected {len(channels)} numbers of channels, got {cfg!r}")
    if numbers not in (list(channels), list(live)):
        position = next(i for i, (a, b) in enumerate(zip(numbers, channels, strict=True)) if a != b)
        raise CheckpointError(
            f"cfg says {numbers[position]} channels for '{norms[position]}', but the tensors have {channels[position]} "
            f"({live[position]} of them with a scale other than 0)"
        )


def convert(
    state: Mapping[str, Tensor], model: str, cfg: Sequence[int | str] | None = None
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A state dict of the reference code as one of ours, with the network that it fits.

    Channels, classes, stem and growth are read from the tensors. Files without vectors that select are masked or never
    pruned, and give the full network. Counters of batch norms may be missing.

    Args:
        state: their names -> tensors.
        model: "vgg19", "resnet164", "densenet40", "vgg_a" or another depth.
        cfg: the channels that a pruned file lists; it has to agree with the tensors.

    Returns:
        The network, with fresh weights, and its state dict: `network.load_state_dict(state)`.

    Raises:
        CheckpointError: of another network, damaged, or with a layer that was emptied; names and shapes are given.

    Source: Liu et al., arXiv 1708.06519, and the layout of the code published with it.
    """
    family_name, depth = family_of(model)
    family = FAMILIES[family_name]
    state = {re.sub(r"^features\.module\.", "features.", key): tensor for key, tensor in state.items()}
    check_family(family_name, model, state)
    build = partial(
        family.build, **_options(family_name, state), **({} if depth is None else {"depth": depth})
    )
    # The full network gives names and the number of axes only, so it needs no memory.
    with torch.device("meta"):
        layout = _layout(family, _built(build, model))
    # First the names; then channels from the file; then the network of these channels, and every shape.
    _check_layout(state, layout, model)
    kept = {norm: _kept(state, v) for norm, v in layout.vectors.items() if v in state}
    scales = [state[f"{norm}.weight"] for norm in layout.norms]
    channels = [len(kept.get(norm, scale)) for norm, scale in zip(layout.norms, scales, strict=True)]
    if cfg is not None:
        _check_cfg(cfg, channels, [int(scale.count_nonzero()) for scale in scales], layout.norms)
    network = _built(build, model, channels=channels)
    expected = network.state_dict()
    state = _positions(state, layout.vectors, kept)
    _fits(compare(state, {reference_name(family, n): t for n, t in expected.items()}), model)
    one = torch.ones((), dtype=torch.int64)
    return network, {n: state.get(reference_name(family, n), one) for n in expected}


def _positions(
    state: Mapping[str, Tensor], vectors: Mapping[str, str], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Positions in place of vectors of zeros and ones; a norm that hands on everything has none."""
    # The norm of a stream of 4 channels with the vector (1, 0, 1, 1): its index becomes (0, 2, 3). With (1, 1, 1, 1)
    # the network has no index there, so the entry is dropped.
    converted = {k: t for k, t in state.items() if k not in vectors.values()}
    for norm, index in kept.items():
        if len(index) < len(state[f"{norm}.weight"]):
            converted[vectors[norm]] = index
    return converted


def load(
    path: str | Path,
    model: str,
    widths: Any = None,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> Elastic:
    """Read a checkpoint of the reference code; a pruned one becomes a network of its channels.

    Args:
        path: the file: of a training, of pruning (compact or masked) or of a fine-tuning.
        model: as of `convert`.
        widths: listed widths, as of `Elastic`.
        image_size: pixels of the square for which costs are counted; by default 32, for "vgg_a" those of the file.
        num_classes: only a check: the file says how many there are.
        options: further arguments of `Elastic`.

    Raises:
        CheckpointError: unreadable, of another number of classes, or as of `convert`.
    """
    state, cfg = read_beside(Path(path), "cfg")
    try:
        network, converted = convert(state, model, cfg)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    file_classes = state[FAMILIES[family_of(model)[0]].head_weight].shape[0]
    if num_classes is not None and num_classes != file_classes:
        raise CheckpointError(f"{path}: holds {file_classes} classes, expected num_classes = {num_classes}")
    network.load_state_dict(converted)
    pixels = image_size or getattr(network, "image_size", 32)
    return Elastic(network, torch.zeros(1, 3, pixels, pixels), widths=widths, **options)


__all__ = ["MODELS", "convert", "load"]
