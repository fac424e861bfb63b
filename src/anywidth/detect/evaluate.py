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
    spare: bool = False,
    report: Callable[[int], None] = lambda images: None,
) -> list[list[Result]]:
    """What every width finds, in COCO's format with raw category ids, in pixels of the original images; `net` keeps its mode.

    Args:
        net: must have statistics for the widths.
        batches: yields (images, targets); of a target only `image_id` is read. Each image is read once for all widths.
        widths: ratios, labels or `Width`s.
        raw_ids: category id of each label.
        kinds: what is taken along.
        spare: the detector may have more classes than there are categories; what it finds of them is left out.
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
    results_by_width: list[list[Result]] = [[] for _ in widths]
    training, image_count = net.training, 0
    net.eval()
    try:
        for images, targets in batches:
            device_images = [image.to(device) for image in images]
            ids = [int(target["image_id"]) for target in targets]
            for row, width in enumerate(widths):
                results_by_width[row] += to_coco(
                    objects(net.at(width)(device_images), len(raw_ids) if spare else None),
                    ids,
                    raw_ids,
                    kinds,
                )
            image_count += len(ids)
            report(image_count)
    finally:
        net.train(training)
    return results_by_width


def objects(outputs: Sequence[dict[str, Tensor]], classes: int | None = None) -> list[dict[str, Tensor]]:
    """Detections of real classes: one-stage detectors of torchvision also score label 0, which no object ever has.

    With `classes`, detections of labels above it are left out too.
    """
    foreground = []
    for output in outputs:
        # boxes (D, 4), labels (D,), scores (D,) -> the rows with 0 < label <= classes, in the same order.
        labels = output["labels"]
        kept = labels > 0
        if classes is not None:
            kept &= labels <= classes
        foreground.append({name: t[kept] for name, t in output.items()})
    return foreground


def kinds_of(model: nn.Module) -> tuple[Kind, ...]:
    """What a detector of torchvision gives: boxes, and masks or keypoints where it has such heads."""
    heads = getattr(model, "roi_heads", None)
    kinds: list[Kind] = ["bbox"]
    if getattr(heads, "mask_head", None) is not None:
        kinds.append("segm")
    if getattr(heads, "keypoint_head", None) is not None:
        kinds.append("keypoints")
    return tuple(kinds)
