"""Detections in COCO's format of results, to be written as JSON or evaluated."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from anywidth.data.records import library
from anywidth.errors import MeasurementError

Kind = Literal["bbox", "segm", "keypoints"]
KINDS: tuple[Kind, ...] = ("bbox", "segm", "keypoints")
FIELD = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
_OUTPUT = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
Result = dict[str, Any]


def to_coco(
    outputs: Sequence[dict[str, Tensor]],
    image_ids: Sequence[int],
    raw_ids: Sequence[int],
    kinds: Collection[Kind] = ("bbox",),
    *,
    mask_threshold: float = 0.5,
) -> list[Result]:
    """Detections as plain values.

    Args:
        outputs: of a torchvision detector, one for each image, in pixels of the original image: `boxes` (N, 4) XYXY,
            `labels` (N,) from 1, `scores` (N,), `masks` (N, 1, H, W) probabilities, `keypoints` (N, K, 3).
        image_ids: of the images.
        raw_ids: category id of each label; label k is raw_ids[k - 1].
        kinds: what is taken along.
        mask_threshold: pixels of a higher probability belong to the mask.

    Returns:
        One dictionary for each detection: image_id, category_id, score, and by kind `bbox` [x, y, width, height],
        `segmentation` (compressed run lengths) and `keypoints` [x1, y1, v1, ...].

    Raises:
        ValueError: a label that is no class, or an output without what is asked for.
        MeasurementError: a box or score that is not finite.
        DataError: masks, where `pycocotools` is not installed.
    """
    check_kinds(kinds)
    if len(outputs) != len(image_ids):
        raise ValueError(
            f"{len(outputs)} outputs for {len(image_ids)} image ids: expected one for each image"
        )
    results: list[Result] = []
    for output, image_id in zip(outputs, image_ids, strict=True):
        _check(output, int(image_id), len(raw_ids), kinds)
        labels, scores = output["labels"].tolist(), output["scores"].tolist()
        fields: dict[str, list[Any]] = {}
        if "bbox" in kinds:
            # Corners to corner and size: (10, 20, 30, 60) -> [10, 20, 20, 40].
            boxes = output["boxes"].detach().cpu().double()
            fields["bbox"] = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
        if "segm" in kinds:
            fields["segmentation"] = _encoded(output["masks"].detach() > mask_threshold)
        if "keypoints" in kinds:
            fields["keypoints"] = output["keypoints"].detach().cpu().double().flatten(1).tolist()
        results += [
            {
                "image_id": int(image_id),
                "category_id": int(raw_ids[label - 1]),
                "score": score,
                **{field: values[n] for field, values in fields.items()},
            }
            for n, (label, score) in enumerate(zip(labels, scores, strict=True))
        ]
    return results


def of_kind(results: Sequence[Result], kind: Kind) -> list[Result]:
    """Results as COCO's evaluation takes them for one kind: without the fields of the others.

    With a box beside a mask or keypoints, COCO's evaluation would count the object's size by the box.

    Raises:
        ValueError: a result has nothing of this kind.
    """
    check_kinds((kind,))
    field = FIELD[kind]
    for result in results:
        if field not in result:
            raise ValueError(
                f"a result for image id {result.get('image_id')} has no '{field}', which {kind!r} is measured on; "
                f"make the results with kinds={list(dict.fromkeys(('bbox', kind)))}"
            )
    keys = ("image_id", "category_id", "score", field)
    return [{key: result[key] for key in keys} for result in results]


def check_kinds(kinds: Collection[str]) -> None:
    """Raises ValueError for a kind that there is not."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"kinds: {sorted(unknown)}: expected some of {', '.join(KINDS)}")


def _check(output: dict[str, Tensor], image_id: int, classes: int, kinds: Collection[Kind]) -> None:
    for iou_type in kinds:
        if _OUTPUT[iou_type] not in output:
            raise ValueError(
                f"image id {image_id}: the detector gives no {_OUTPUT[iou_type]}, only {', '.join(sorted(output))}; leave "
                f"{iou_type!r} out of the metrics, or take a detector that gives them"
            )
    labels = output["labels"]
    if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise ValueError(
            f"image id {image_id}: labels from {int(labels.min())} to {int(labels.max())}, but the data set has "
            f"{classes} classes, 1 to {classes}; make the detector with {classes + 1} classes, 0 being background"
        )
    for key in ("scores", *(_OUTPUT[iou_type] for iou_type in kinds if iou_type != "segm")):
        if not torch.isfinite(output[key]).all():
            raise MeasurementError(
                f"image id {image_id}: {key} of a detection are not finite; the detector's weights or its "
                "batch-norm statistics are broken"
            )


def _encoded(masks: Tensor) -> list[dict[str, Any]]:
    """Compressed run lengths of masks (N, 1, H, W) bool."""
    if not len(masks):
        return []
    # pycocotools expects (H, W, N) uint8 in column-major order: its run lengths go down the columns.
    ordered = np.asfortranarray(masks[:, 0].permute(1, 2, 0).cpu().numpy().astype(np.uint8))
    encoded = library("pycocotools.mask", "detect").encode(ordered)
    return [{"size": list(code["size"]), "counts": code["counts"].decode("ascii")} for code in encoded]
