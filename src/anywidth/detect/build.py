"""Detectors of torchvision as elastic networks, traced like any model."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from anywidth.detect.backbone import load_backbone_
from anywidth.detect.detector_config import DetectorConfig
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
from anywidth.norms.bank import batch_norms
from anywidth.settings import configured, takes_fields_of
from anywidth.space.channel_space import ChannelSpace
from anywidth.tracing.groups import build
from anywidth.tracing.trace import trace
from anywidth.views.trial_runs import probed_space

WIDTHS = (0.25, 0.5, 0.75, 1.0)
_REFERENCE = {"neck": 1.0, "heads": 1.0}


@takes_fields_of(DetectorConfig)
def elastic_detector(
    detector: str | nn.Module,
    config: DetectorConfig | None = None,
    *,
    widths: Iterable[float] | Mapping[Hashable, float] = WIDTHS,
    backbone: Elastic | None = None,
    **options: Any,
) -> Elastic:
    """A detector that runs at any width.

    Args:
        detector: one of `anywidth.detect.DETECTORS`, which gets random weights, or a detector of torchvision, which is not
            copied; its `FrozenBatchNorm2d` become ordinary norms with the same numbers.
        config: what of it is elastic, and its norms; `options` may give some of its settings one by one.
        widths: listed widths: multipliers, or label -> multiplier.
        backbone: a slimmable classifier whose weights and norms the backbone takes (`load_backbone_`).
        options: settings of `DetectorConfig`, and further arguments of a named detector, like `min_size`.

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
    names = {field.name for field in fields(DetectorConfig)}
    config = configured(DetectorConfig, config, {k: v for k, v in options.items() if k in names})
    model = _model(detector, config.num_classes, {k: v for k, v in options.items() if k not in names})
    # label -> part -> ratio; a part whose ratio is 1.0 at every label leaves the search space altogether.
    part_shares = {**(_REFERENCE if config.preset == "reference" else {}), **check_names(config.parts)}
    shares = shares_of(part_shares, _listed(widths))
    space, frozen = _space(model, config, part_shares, fixed_parts(shares.values()))
    net = Elastic(
        model,
        detectors.example_images(model, config.shape),
        norm=config.norm,
        widths={label: part_width(space, **_elastic(space, row)) for label, row in shares.items()},
        freeze=frozen,
        space=space,
    )
    trained = backbone is not None or config.preset == "reference"
    trainable_layers = config.trainable_layers
    if trainable_layers is None and trained and detectors.has_stages(model):
        trainable_layers = 3
    if trainable_layers is not None:
        detectors.freeze_stages_(model, trainable_layers)
    _prepare_norms_(net, backbone, config.constant_norms)
    return net


def _listed(widths: Iterable[float] | Mapping[Hashable, float]) -> dict[Hashable, float]:
    listed = widths.items() if isinstance(widths, Mapping) else ((w, w) for w in widths)
    labels: dict[Hashable, float] = {label: float(share) for label, share in listed}
    if not labels:
        raise WidthError("widths is empty: name at least one")
    return labels


def _model(detector: str | nn.Module, num_classes: int | None, options: dict[str, Any]) -> nn.Module:
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
    model: nn.Module, config: DetectorConfig, part_shares: Mapping[str, Any], fixed: set[str]
) -> tuple[ChannelSpace, tuple[str, ...]]:
    """The channel space without the parts that stay, and everything that was frozen for it."""
    # Two traces: the first finds the channel groups of every part, the second leaves out the groups of
    # the fixed parts. Freezing by name needs the names, hence the order.
    example = detectors.example_images(model, config.shape)
    with detectors.short_run(model, config.shape):
        full_space = build(trace(model, example), [])
        check_parts(part_shares, full_space)
        if fixed == set(PARTS):
            raise WidthError(
                "parts: all are 1.0 at all widths, so nothing is elastic; give one of them smaller shares"
            )
        names = groups_of(full_space)
        frozen = (
            *config.freeze,
            *(_module(name) for part_name in PARTS if part_name in fixed for name in names[part_name]),
        )
        return probed_space(model, example, frozen, divisor=config.divisor, minimum=config.minimum), frozen


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
