"""Average precision by COCO's own evaluation."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anywidth.data.coco_files import check_document
from anywidth.data.records import library
from anywidth.detect.results import FIELD, Kind, Result, check_kinds, of_kind, to_coco
from anywidth.errors import DataError

Backend = Literal["faster_coco_eval", "pycocotools"]
NAMES: dict[Kind, tuple[str, ...]] = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
PERSON = 17  # keypoints that COCO gives the spread of
__all__ = ["NAMES", "PERSON", "Backend", "Kind", "coco_metrics", "of_kind", "to_coco"]


def coco_metrics(
    annotations: str | Path | dict[str, Any],
    results: Sequence[Result],
    kinds: Collection[Kind] = ("bbox",),
    *,
    backend: Backend = "faster_coco_eval",
    image_ids: Collection[int] | None = None,
    sigmas: Sequence[float] | None = None,
) -> dict[str, dict[str, float]]:
    """Average precision of detections.

    Args:
        annotations: the ground truth, a file in COCO's format or its content.
        results: from `to_coco`, of all processes.
        kinds: what is measured: boxes, masks, keypoints.
        backend: the package that measures; both give the same numbers.
        image_ids: the images that are measured; by default all of the ground truth.
        sigmas: spread of each keypoint; to be given where they are not COCO's 17 of a person.

    Returns:
        For each kind: AP over IoU 0.5 to 0.95, AP50, AP75, and AP of small (below 32^2 pixels; not for keypoints),
        medium and large (from 96^2 pixels) objects, from 0 to 1; -1 where the ground truth has no such object.

    Raises:
        DataError: ground truth that cannot be read or lacks masks or keypoints, or a package that is not installed.
        ValueError: results for an image or a category that the ground truth does not have, or without what is measured.

    Source: Lin et al., "Microsoft COCO: Common objects in context", and cocodataset.org/#detection-eval.
    """
    check_kinds(kinds)
    coco, evaluation = _backend(backend)
    truth, source = _read(annotations)
    _check_results(results, truth, source)
    metrics = {}
    for iou_type in kinds:
        _check_truth(truth, iou_type, source, sigmas)
        evaluated = of_kind(results, iou_type)
        # Both packages print tables to stdout.
        with redirect_stdout(io.StringIO()):
            metrics[iou_type] = _measured(coco, evaluation, truth, evaluated, iou_type, image_ids, sigmas)
    return metrics


def _backend(name: str) -> tuple[Any, Any]:
    """The classes of annotations and of evaluation."""
    match name:
        case "faster_coco_eval":
            package = library("faster_coco_eval", "detect")
            return package.COCO, package.COCOeval_faster
        case "pycocotools":
            library("pycocotools", "detect")
            coco, cocoeval = (library(f"pycocotools.{module}", "detect") for module in ("coco", "cocoeval"))
            return coco.COCO, cocoeval.COCOeval
    raise ValueError(f"backend = {name!r}: expected 'faster_coco_eval' or 'pycocotools'")


def _read(annotations: str | Path | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The ground truth, and its place for a message."""
    if isinstance(annotations, dict):
        document, source = annotations, "annotations"
    else:
        source = str(annotations)
        try:
            document = json.loads(Path(annotations).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{source}: no such file of annotations") from None
        except ValueError as error:
            raise DataError(f"{source}: is not JSON ({error}); fetch it again") from None
    check_document(document, Path(source))
    return document, source


def _check_results(results: Sequence[Result], truth: dict[str, Any], source: str) -> None:
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for result in results:
        if result["image_id"] not in images:
            raise ValueError(
                f"{source}: a result is for image id {result['image_id']}, which is none of the {len(images)} images; "
                "evaluate on the annotations of the images that were detected on"
            )
        if result["category_id"] not in categories:
            raise ValueError(
                f"{source}: a result for image id {result['image_id']} has category_id {result['category_id']}, which is "
                f"none of the {len(categories)} categories; map labels back to the ids of the file"
            )


def _check_truth(truth: dict[str, Any], iou_type: Kind, source: str, sigmas: Sequence[float] | None) -> None:
    field = FIELD[iou_type]
    for entry in truth["annotations"]:
        if iou_type == "keypoints" and entry.get("iscrowd"):
            continue
        if not entry.get(field):
            raise DataError(
                f"{source}: annotation {entry['id']} of image id {entry['image_id']} has no {field}, which {iou_type!r} is "
                f"measured on; take {'person_keypoints' if iou_type == 'keypoints' else 'instances'}_*.json, or leave "
                f"{iou_type!r} out of the metrics"
            )
        if iou_type == "keypoints":
            count = PERSON if sigmas is None else len(sigmas)
            if len(entry[field]) != 3 * count:
                raise DataError(
                    f"{source}: annotation {entry['id']} of image id {entry['image_id']} has {len(entry[field]) // 3} "
                    f"keypoints, expected {count}; give the spread of each keypoint (sigmas) where they are not COCO's"
                )


def _completed(truth: dict[str, Any], iou_type: Kind, count: int) -> dict[str, Any]:
    """A copy that the packages may change, with what they need and files of other makers leave out.

    `count` is the number of keypoints. Annotations are numbered from 1: both packages take an object with the number 0 for one that was not found.
    """
    annotations = []
    for annotation_id, entry in enumerate(truth["annotations"], start=1):
        x: dict[str, Any] = {
            "iscrowd": 0,
            "area": entry["bbox"][2] * entry["bbox"][3],
            **entry,
            "id": annotation_id,
        }
        x.pop("ignore", None)
        if iou_type == "keypoints":
            x["keypoints"] = x.get("keypoints") or [0] * (3 * count)  # of a crowd
            x.setdefault("num_keypoints", sum(flag > 0 for flag in x["keypoints"][2::3]))
        annotations.append(x)
    return {"images": truth["images"], "categories": truth["categories"], "annotations": annotations}


def _measured(
    coco: Any,
    evaluation: Any,
    truth: dict[str, Any],
    results: list[Result],
    iou_type: Kind,
    image_ids: Collection[int] | None,
    sigmas: Sequence[float] | None,
) -> dict[str, float]:
    truth_coco, result_coco = coco(), None
    truth_coco.dataset = _completed(truth, iou_type, PERSON if sigmas is None else len(sigmas))
    truth_coco.createIndex()
    if results:
        result_coco = truth_coco.loadRes(results)
    else:  # `loadRes` of pycocotools looks at the first
        result_coco = coco()
        result_coco.dataset = {**truth_coco.dataset, "annotations": []}
        result_coco.createIndex()
    run = evaluation(truth_coco, result_coco, iou_type)
    if image_ids is not None:
        run.params.imgIds = sorted(image_ids)
    if iou_type == "keypoints" and sigmas is not None:
        run.params.kpt_oks_sigmas = np.array(sigmas)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {name: float(value) for name, value in zip(NAMES[iou_type], run.stats, strict=False)}
