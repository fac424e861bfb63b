"""Multiply-adds of the parts of a detector, from the cost model of the elastic network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anywidth.cost.cost_model import CostModel, kept_rows
from anywidth.detect.parts import part_of
from anywidth.elastic import Elastic
from anywidth.models.detectors import example_images, short_run
from anywidth.space.axes import Term
from anywidth.space.channel_space import ChannelSpace
from anywidth.tracing.groups import build, frozen_by_name
from anywidth.tracing.trace import trace

_BOXES = "box"  # the head that sees every proposal; other heads on regions see detections


def part_macs(
    net: Elastic,
    w: Any,
    *,
    size: int | Sequence[int] | None = None,
    rois: int = 1000,
    detections: int = 100,
) -> dict[str, int]:
    """Multiply-adds of every part at a width, for one image.

    Args:
        net: an elastic detector.
        w: a width, a multiplier or a label of `net.widths`.
        size: pixels (H, W), or of a square, of the image as the network sees it; by default those that `net` was made with.
        rois: proposals that the box head sees.
        detections: regions that a mask or keypoint head sees.

    Returns:
        "backbone", "neck", and what the detector has of "rpn", "box", "mask", "keypoint", "classification", "regression",
        in the order in which they run; and "total".

    Raises:
        ValueError: negative counts.
    """
    for name, count in (("rois", rois), ("detections", detections)):
        if count < 0:
            raise ValueError(f"{name}={count} counts regions and is at least 0")
    space = net.space if size is None else _space_at(net, (size, size) if isinstance(size, int) else size)
    # The network was traced with few regions, and the cost of a head on regions is linear in their number:
    # what the box head costs for 24 regions, divided by 24 and multiplied by `rois`.
    kept = kept_rows(space, [net.width(w)], net.width)
    terms_by_row: dict[str, list[Term]] = {}
    for term in space.terms:
        terms_by_row.setdefault(_row(term.module), []).append(term)
    macs_by_row: dict[str, int] = {}
    for row, terms in terms_by_row.items():
        macs = int(CostModel(replace(space, terms=tuple(terms)), {}).macs(kept)[0])
        traced_regions = _regions(terms)
        if traced_regions is not None:
            assert macs % traced_regions == 0, f"{row}: {macs} multiply-adds for {traced_regions} regions"
            macs = macs // traced_regions * (rois if row == _BOXES else detections)
        macs_by_row[row] = macs
    return {**macs_by_row, "total": sum(macs_by_row.values())}


def _row(module: str) -> str:
    """What a module counts for: backbone, neck, or the first word of what a head is called."""
    part_name = part_of(module)
    if part_name != "heads":
        return part_name
    names = module.split(".")
    if names[0] in ("roi_heads", "head") and len(names) > 1:
        return names[1].partition("_")[0]
    return names[0]


def _regions(terms: Sequence[Term]) -> int | None:
    """How many regions heads on regions saw when the network was traced; None for other parts."""
    if not terms[0].module.startswith("roi_heads."):
        return None
    counts = {term.written[0].constant for term in terms}
    assert len(counts) == 1, f"{terms[0].module}: regions counted as {sorted(counts)}"
    return counts.pop()


def _space_at(net: Elastic, size: Sequence[int]) -> ChannelSpace:
    """The channel space with the costs of another image size."""
    with short_run(net.model, size):
        walk = trace(net.model, example_images(net.model, size))
    freeze = net.space.freeze
    if not freeze:  # or the network was loaded, and does not know them
        freeze = [name.partition("#")[0] for name in build(walk, []).names if name not in net.space.names]
    resized_space = build(walk, frozen_by_name(walk, net.model, freeze))
    assert resized_space.names == net.space.names, (
        "the same network has the same channel groups at every image size"
    )
    return replace(net.space, terms=resized_space.terms)
