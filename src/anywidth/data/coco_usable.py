"""Which annotations of an image can be trained on."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from anywidth.data.coco_config import Need
from anywidth.data.coco_files import CocoImages, Entry

_log = logging.getLogger(__name__)
_NAMED = 5
_REASONS = {
    "small": "have no area, or a side below 1 pixel",
    "outside": "lie outside their image",
    "flat": "have a mask of fewer than three corners",
}


def keep_(images: CocoImages, need: Collection[Need], *, crowds: bool) -> None:
    """Set the annotations that are kept of every image; what is left out is logged, once for each reason.

    A box is left out if its area is 0 or less, a side below 1 pixel, or nothing of it inside the image; with masks,
    also an annotation whose polygons all have fewer than three corners.

    Args:
        images: changed.
        need: what the annotations are for.
        crowds: keep crowds too.
    """
    left_out: dict[str, list[Entry]] = {reason: [] for reason in _REASONS}
    for id, entries in images.coco.imgToAnns.items():
        kept = []
        for entry in entries:
            reason = _reason(entry, images.coco.imgs[id], need)
            if reason:
                left_out[reason].append(entry)
            elif crowds or not entry.get("iscrowd"):
                kept.append(_completed(entry, need))
        images.kept[id] = kept
    for reason, entries in left_out.items():
        if entries:
            ids = list(dict.fromkeys(entry["image_id"] for entry in entries))
            named = ", ".join(f"{id} ({images.coco.imgs[id]['file_name']})" for id in ids[:_NAMED])
            suffix = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
            _log.warning(
                "%s: %d annotations are left out because they %s; image id %s%s",
                images.path, len(entries), _REASONS[reason], named, suffix,
            )  # fmt: skip


def _reason(entry: Entry, image: Entry, need: Collection[Need]) -> str | None:
    """Why an annotation cannot be used, if it cannot."""
    x, y, width, height = entry["bbox"]
    if width < 1 or height < 1 or entry.get("area", width * height) <= 0:
        return "small"
    # Image 100 wide, box from x = 90, 30 wide: 10 pixels inside. From x = 120 it would be -20.
    inside = min(x + width, image["width"]) - max(x, 0), min(y + height, image["height"]) - max(y, 0)
    if min(inside) < 1:
        return "outside"
    if "masks" in need and not _shape(entry["segmentation"]):
        return "flat"
    return None


def _shape(segmentation: Any) -> Any:
    """A mask, or its polygons of three corners and more; pycocotools takes a list of four numbers for a box."""
    if isinstance(segmentation, dict):
        return segmentation
    # Six numbers are three corners; four would be read as a box.
    return [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _completed(entry: Entry, need: Collection[Need]) -> Entry:
    """The annotation with what files of other makers leave out."""
    _, _, width, height = entry["bbox"]
    missing: Entry = {}
    if "area" not in entry:
        missing["area"] = width * height
    if "iscrowd" not in entry:
        missing["iscrowd"] = 0
    if "masks" in need and len(_shape(entry["segmentation"])) < len(entry["segmentation"]):
        missing["segmentation"] = _shape(entry["segmentation"])
    return {**entry, **missing} if missing else entry
