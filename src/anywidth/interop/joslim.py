"""Checkpoints of the reference code of Joslim. See `docs/import.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anywidth import models
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.interop.arrays import NAMES
from anywidth.interop.checkpoint_files import bare, compare, read_whole, take_
from anywidth.interop.joslim_results import (
    Pareto,
    Proposal,
    history,
    read_pareto,
    sample_pool,
    write_pareto,
)
from anywidth.interop.joslim_widths import (
    MODELS,
    decode,
    fixed,
    model_class,
    reference_macs,
    search_dim,
)


def new(
    model: str,
    widths: Any = None,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    freeze: Sequence[str] = (),
    **options: Any,
) -> Elastic:
    """A network of Joslim with fresh weights; what no vector narrows is frozen.

    Args:
        model: a key of `MODELS`.
        widths: listed widths, as of `Elastic`.
        num_classes: number of logits; by default 100 for the CIFAR networks, else 1000.
        image_size: pixels of the square for which costs are counted; by default 32 for the CIFAR networks, else 224.
        freeze: more that stays, as of `Elastic`.
        options: further arguments of `Elastic`.

    Raises:
        CheckpointError: unknown model.
        WidthError: impossible widths.

    Source: arXiv 2007.11752.
    """
    network = model_class(model)(**({} if num_classes is None else {"num_classes": num_classes}))
    return _elastic(network, widths, image_size, freeze, options)


def _elastic(
    network: nn.Module, widths: Any, image_size: int | None, freeze: Sequence[str], options: Mapping[str, Any]
) -> Elastic:
    pixels = image_size or (32 if isinstance(network, models.JoslimCifarResNet) else 224)
    patterns = [freeze] if isinstance(freeze, str) else freeze
    example = torch.zeros(1, 3, pixels, pixels)
    return Elastic(network, example, widths=widths, freeze=[*fixed(network), *patterns], **options)


def load(
    path: str | Path,
    model: str,
    widths: Any = None,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
    freeze: Sequence[str] = (),
    **options: Any,
) -> Elastic:
    """Read the weights of `checkpoint/NAME.pt`. Biases of convolutions that the reference code stores and never adds are left out.

    Its running statistics are averages over all widths that were trained: calibrate before evaluating, the full width too.

    Args:
        path: the file, of one process or of several (`module.`).
        model: a key of `MODELS`.
        num_classes: only a check: the file says how many there are.
        widths, image_size, freeze, options: as of `new`.

    Raises:
        CheckpointError: unknown model, unreadable, of another model or of another number of classes.
        WidthError: impossible widths.
    """
    build = model_class(model)
    state = bare(Path(path), read_whole(Path(path), NAMES))
    classes = _classes(path, model, state)
    if num_classes not in (None, classes):
        raise CheckpointError(f"{path}: holds {classes} classes, expected num_classes = {num_classes}")
    network = build(num_classes=classes)
    expected = network.state_dict()
    # Their convolutions hold biases that the forward pass ignores; ours have none.
    unused = {f"{path}.bias" for path, m in network.named_modules() if isinstance(m, nn.Conv2d)} - set(
        expected
    )
    state = {name: tensor for name, tensor in state.items() if name not in unused}
    report = compare(state, expected)
    if not report.fits:
        raise CheckpointError(f"{path} does not fit {model}: {report}")
    take_(network, state)
    return _elastic(network, widths, image_size, freeze, options)


def _classes(path: str | Path, model: str, state: Mapping[str, Tensor]) -> int:
    name = f"classifier.{1 if 'mobilenet' in model else 0}.weight"
    if name not in state or state[name].ndim < 2:
        raise CheckpointError(f"{path} does not fit {model}: '{name}' of the classifier is missing")
    return state[name].shape[0]


__all__ = [
    "MODELS",
    "Pareto",
    "Proposal",
    "decode",
    "history",
    "load",
    "new",
    "read_pareto",
    "reference_macs",
    "sample_pool",
    "search_dim",
    "write_pareto",
]
