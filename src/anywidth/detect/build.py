"""Detectors of torchvision as elastic networks, traced like any model."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from anywidth.detect.backbone import load_backbone_
from anywidth.detect.parts import (
    PARTS,
    check_detector,
    check_names,
    check_parts,
    fixed_parts,
    groups_of,
    part_of,
    part_width,
    shares_of,
)
from anywidth.elastic import Elastic
from anywidth.errors import OrdinaryWeightsWarning, WidthError
from anywidth.models import detectors
from anywidth.norms.bank import NormPolicy, batch_norms
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import Policy
from anywidth.tracing.groups import build
from anywidth.tracing.trace import trace
from anywidth.views.trial_runs import probed_space

Preset = Literal["full", "reference"]
WIDTHS = (0.25, 0.5, 0.75, 1.0)
_REFERENCE = {"neck": 1.0, "heads": 1.0}


def elastic_detector(
    detector: str | nn.Module,
    *,
    preset: Preset = "full",
    parts: Mapping[str, Any] | None = None,
    widths: Iterable[float] | Mapping[Hashable, float] = WIDTHS,
    norm: NormPolicy = "switchable",
    constant_norms: bool | None = None,
    backbone: Elastic | None = None,
    trainable_layers: int | None = None,
    size: int | Sequence[int] = 320,
    num_classes: int | None = None,
    divisor: Policy = 1,
    minimum: Policy = 1,
    freeze: Sequence[str] = (),
    **options: Any,
) -> Elastic:
    """A detector that runs at any width.

    Args:
        detector: one of `anywidth.detect.DETECTORS`, which gets random weights, or a detector of torchvision, which is not
            copied; its `FrozenBatchNorm2d` become ordinary norms with the same numbers.
        preset: "full": backbone, neck and heads; "reference": the backbone alone, as published, of which the laterals read
            the channels that are there.
        parts: part ("backbone", "neck", "heads") -> its share: a number for all widths (1.0: it stays as it is), a
            sequence with one number per width, or label -> number. Parts left out follow `widths`.
        widths: listed widths: multipliers, or label -> multiplier.
        norm: "switchable", "shared" or "frozen" batch norms.
        constant_norms: whether norms keep their numbers in training. By default where only the backbone has norms, whose
            numbers come from a classifier.
        backbone: a slimmable classifier whose weights and norms the backbone takes (`load_backbone_`).
        trainable_layers: how many of stem and stages of a ResNet learn, counted from the last; by default 3 with a
            `backbone` or in the preset "reference", else all.
        size: pixels (H, W), or of a square, of the image as the network sees it, for which costs are counted.
        num_classes: of a named detector, with the background.
        divisor, minimum, freeze: as of `Elastic`.
        options: further arguments of a named detector, like `min_size`.

    Returns:
        The network; `net.at(w)` is a detector of the same class.

    Raises:
        ValueError: an unknown detector or preset, or a model that is no detector.
        WidthError: parts that do not exist, or widths that they cannot have.
        CheckpointError: a classifier that does not fit.

    Warns:
        OrdinaryWeightsWarning: trained weights whose narrow widths have no statistics of their own.

    Source: Slimmable Networks, arXiv 1812.08928, section 4.2 and appendix B. There, features are padded with zeros up to
    the laterals' inputs; slicing these inputs gives the same numbers for less.
    """
    model = _model(detector, preset, num_classes, options)
    shape = (size, size) if isinstance(size, int) else tuple(size)
    listed = widths.items() if isinstance(widths, Mapping) else ((w, w) for w in widths)
    labels: dict[Hashable, float] = {label: float(share) for label, share in listed}
    if not labels:
        raise WidthError("widths is empty: name at least one")
    part_shares = {**(_REFERENCE if preset == "reference" else {}), **check_names(parts)}
    # label -> part -> ratio; a part whose ratio is 1.0 at every label leaves the search space altogether.
    shares = shares_of(part_shares, labels)
    policies = {"divisor": divisor, "minimum": minimum}
    space, frozen = _space(model, shape, part_shares, fixed_parts(shares.values()), tuple(freeze), policies)
    net = Elastic(
        model,
        detectors.example_images(model, shape),
        norm=norm,
        widths={label: part_width(space, **_elastic(space, row)) for label, row in shares.items()},
        freeze=frozen,
        space=space,
    )
    if (
        trainable_layers is None
        and (backbone is not None or preset == "reference")
        and detectors.has_stages(model)
    ):
        trainable_layers = 3
    if trainable_layers is not None:
        detectors.freeze_stages_(model, trainable_layers)
    _prepare_norms_(net, backbone, constant_norms)
    return net


def _model(
    detector: str | nn.Module, preset: str, num_classes: int | None, options: dict[str, Any]
) -> nn.Module:
    if preset not in get_args(Preset):
        raise ValueError(f"preset={preset!r} is unknown; known are {', '.join(get_args(Preset))}")
    if isinstance(detector, str):
        return detectors.detector(detector, num_classes, **options)
    check_detector(detector)
    if num_classes is not None or options:
        raise ValueError(
            f"num_classes and {', '.join(options) or 'options'} belong to a detector given by its name; this "
            f"{type(detector).__name__} already exists"
        )
    with_norms_(detector)
    return detector


@torch.no_grad()
def with_norms_(model: nn.Module) -> None:
    """Put batch norms, which do not learn, in place of `FrozenBatchNorm2d`: the same numbers in evaluation mode."""
    for path, m in list(model.named_modules()):
        if isinstance(m, FrozenBatchNorm2d):
            weight = m.get_buffer("weight")
            norm = nn.BatchNorm2d(weight.numel(), eps=m.eps).to(weight)
            for name, t in m.named_buffers():
                getattr(norm, name).copy_(t)
            norm.train(m.training).requires_grad_(False)
            model.set_submodule(path, norm)


def _space(
    model: nn.Module,
    shape: Sequence[int],
    part_shares: Mapping[str, Any],
    fixed: set[str],
    freeze: tuple[str, ...],
    policies: Mapping[str, Policy],
) -> tuple[ChannelSpace, tuple[str, ...]]:
    """The channel space without the parts that stay, and everything that was frozen for it."""
    # Two traces: the first finds the channel groups of every part, the second leaves out the groups of
    # the fixed parts. Freezing by name needs the names, hence the order.
    example = detectors.example_images(model, shape)
    with detectors.short_run(model, shape):
        full_space = build(trace(model, example), [])
        check_parts(part_shares, full_space)
        if fixed == set(PARTS):
            raise WidthError(
                "parts: all are 1.0 at all widths, so nothing is elastic; give one of them smaller shares"
            )
        names = groups_of(full_space)
        frozen = (
            *freeze,
            *(_module(name) for part_name in PARTS if part_name in fixed for name in names[part_name]),
        )
        return probed_space(model, example, frozen, **policies), frozen


def _module(group: str) -> str:
    return group.partition("#")[0]


def _elastic(space: ChannelSpace, row: Mapping[str, float]) -> dict[str, float]:
    """The shares of parts that have channel groups."""
    groups = groups_of(space)
    return {part_name: share for part_name, share in row.items() if groups[part_name]}  # type: ignore[index]


def _prepare_norms_(net: Elastic, backbone: Elastic | None, constant: bool | None) -> None:
    """Norms and weights of the backbone, and what becomes of the norms in training."""
    # A detection batch has one or two images: too few for statistics, so those of the classifier stay where only the
    # backbone has norms.
    if constant is None:
        constant = all(part_of(path) == "backbone" for path in batch_norms(net.model))
    if backbone is not None:
        load_backbone_(net, backbone)
    else:
        _warn(net)
    if constant and net.norms.policy != "frozen":
        net.norms.freeze_()
    elif constant:
        for m in batch_norms(net.model).values():
            m.requires_grad_(False)
    net.drop_views_()


def _warn(net: Elastic) -> None:
    """Ordinary weights know the full width only."""
    if not any(_measured(m) for m in batch_norms(net.model).values()):
        return
    uncalibrated = [
        label
        for label, w in net.widths.items()
        if w != net.space.full and (net.norms.policy == "frozen" or not net.norms.ready(w))
    ]
    if uncalibrated:
        warnings.warn(
            f"the weights of this {type(net.model).__name__} were trained at one width, and its widths "
            f"{', '.join(map(repr, uncalibrated))} have no batch-norm statistics of their own, so they will detect next to nothing: "
            "give a slimmable classifier (backbone=...), or call net.calibrate(loader) and train at these widths",
            OrdinaryWeightsWarning,
            stacklevel=4,
        )


def _measured(m: nn.Module) -> bool:
    mean, variance = m.get_buffer("running_mean"), m.get_buffer("running_var")
    return bool((mean != 0).any() or (variance != 1).any())
