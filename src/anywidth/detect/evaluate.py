"""Detections of many widths in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.detect.results import Kind, Result, to_coco
from anywidth.elastic import Elastic
from anywidth.errors import StatisticsError


@torch.inference_mode()
def detections(
    net: Elastic,
    batches: Iterable[Sequence[Any]],
    widths: Sequence[Hashable],
    raw_ids: Sequence[int],
    kinds: Collection[Kind] = ("bbox",),
    *,
    report: Callable[[int], None] = lambda images: None,
) -> list[list[Result]]:
    """What every width finds, in COCO's format with raw category ids, in pixels of the original images; `net` keeps its mode.

    Args:
        net: must have statistics for the widths.
        batches: yields (images, targets); of a target only `image_id` is read. Each image is read once for all widths.
        widths: ratios, labels or `Width`s.
        raw_ids: category id of each label.
        kinds: what is taken along.
        report: is told how many images are done.

    Returns:
        One list of results per width.

    Raises:
        StatisticsError: a width that was neither trained nor calibrated.
    """
    for w in widths:
        if not net.has_statistics(w):
            raise StatisticsError(
                f"width {w} has no batch-norm statistics. Call net.calibrate(loader, widths=[{w}]) first, or train at this width."
            )
    device = next(net.parameters()).device
    found: list[list[Result]] = [[] for _ in widths]
    training, done = net.training, 0
    net.eval()
    try:
        for images, targets in batches:
            here = [image.to(device) for image in images]
            ids = [int(target["image_id"]) for target in targets]
            for row, width in enumerate(widths):
                found[row] += to_coco(_objects(net.at(width)(here)), ids, raw_ids, kinds)
            done += len(ids)
            report(done)
    finally:
        net.train(training)
    return found


def _objects(outputs: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Detections of classes; one-stage detectors of torchvision have a score for label 0 too, which nothing is ever labelled with."""
    return [{name: t[output["labels"] > 0] for name, t in output.items()} for output in outputs]


def kinds_of(model: nn.Module) -> tuple[Kind, ...]:
    """What a detector of torchvision gives: boxes, and masks or keypoints where it has such heads."""
    heads = getattr(model, "roi_heads", None)
    kinds: list[Kind] = ["bbox"]
    if getattr(heads, "mask_head", None) is not None:
        kinds.append("segm")
    if getattr(heads, "keypoint_head", None) is not None:
        kinds.append("keypoints")
    return tuple(kinds)
