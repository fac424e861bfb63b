"""Multiply-adds of parts against the published table of measurements, and laws."""

import itertools

import pytest
import torch

import anywidth as aw
from anywidth.detect import DETECTORS, elastic_detector, part_width
from anywidth.detect.costs import part_macs
from anywidth.models.detectors import detector

# G multiply-adds at 320 x 320, counted by torch on compact networks (masks and keypoints of narrow heads by formula):
# backbone share, share of neck and heads; body, FPN, RPN, box head of 1000 regions, sum; mask and keypoint heads of 100.
TABLE = (
    (1.0, 1.0, 8.34, 5.80, 5.06, 14.36, 33.56, 53.21, 349.5),
    (0.75, 1.0, 4.74, 5.60, 5.06, 14.36, 29.76, 53.21, 349.5),
    (0.5, 1.0, 2.15, 5.41, 5.06, 14.36, 26.97, 53.21, 349.5),
    (0.25, 1.0, 0.57, 5.21, 5.06, 14.36, 25.20, 53.21, 349.5),
    (0.75, 0.75, 4.74, 3.26, 2.85, 8.17, 19.02, 30.3, 197.1),
    (0.5, 0.5, 2.15, 1.45, 1.27, 3.71, 8.58, 13.8, 88.1),
    (0.25, 0.25, 0.57, 0.36, 0.32, 0.99, 2.24, 3.7, 22.4),
)
FASTER = ("backbone", "neck", "rpn", "box")


@pytest.fixture(scope="module")
def nets():
    return {
        "mask": elastic_detector("maskrcnn_resnet50_fpn"),
        "keypoint": elastic_detector("keypointrcnn_resnet50_fpn", num_classes=91, size=64),
    }


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_parts_cost_what_was_measured(nets, row):
    body, rest, *expected, mask, keypoint = row
    for name, head in (("mask", mask), ("keypoint", keypoint)):
        found = part_macs(nets[name], part_width(nets[name], backbone=body, neck=rest, heads=rest), size=320)
        giga = [found[part] / 1e9 for part in FASTER]
        assert [*giga, sum(giga)] == pytest.approx(expected, abs=0.0101)  # the table has two digits
        assert found[name] / 1e9 == pytest.approx(head, abs=0.051)
        assert found["total"] == sum(v for k, v in found.items() if k != "total")


def test_a_wrong_width_is_noticed(nets):
    found = part_macs(nets["mask"], part_width(nets["mask"], backbone=0.5))
    assert found["neck"] / 1e9 != pytest.approx(TABLE[0][3], abs=0.0101)


def test_the_preset_reference_costs_what_its_row_says():
    net = elastic_detector("fasterrcnn_resnet50_fpn", preset="reference")
    for row in TABLE[:4]:
        assert part_macs(net, row[0])["total"] / 1e9 == pytest.approx(row[6], abs=0.0101)


@pytest.mark.parametrize("name", DETECTORS)
def test_parts_add_up_and_grow_with_the_width(name):
    net = elastic_detector(name, size=320 if "ssd" in name else 64)
    rows = [part_macs(net, w) for w in (0.25, 0.5, 0.75, 1.0)]
    assert all(a[k] < b[k] for a, b in itertools.pairwise(rows) for k in a)
    if "rcnn" not in name:  # no heads on regions: what `net.macs` counts
        assert [r["total"] for r in rows] == net.macs([0.25, 0.5, 0.75, 1.0]).tolist()


def test_heads_on_regions_cost_as_many_regions(nets):
    net = nets["mask"]
    a = part_macs(net, 0.5, rois=1000, detections=100)
    b = part_macs(net, 0.5, rois=250, detections=0)
    assert (b["box"] * 4, b["mask"], b["rpn"]) == (a["box"], 0, a["rpn"])
    with pytest.raises(ValueError, match="rois=-1 counts regions"):
        part_macs(net, 0.5, rois=-1)


def test_counting_changes_nothing(nets):
    net = nets["keypoint"]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    settings = (
        net.model.transform.min_size,
        net.model.rpn.post_nms_top_n(),
        net.model.roi_heads.score_thresh,
    )
    part_macs(net, 1.0, size=(96, 64))
    assert (
        net.model.transform.min_size,
        net.model.rpn.post_nms_top_n(),
        net.model.roi_heads.score_thresh,
    ) == settings
    after = net.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("changes", [{"preset": "reference"}, {"parts": {"neck": 1.0}}, {}])
def test_a_detector_that_was_loaded_costs_the_same_at_other_sizes(tmp_path, changes):
    name, options = "fasterrcnn_resnet50_fpn", {"num_classes": 3, "min_size": 64, "max_size": 64}
    net = elastic_detector(name, size=64, **options, **changes)
    net.save(tmp_path / "net.safetensors")
    back = aw.load(tmp_path / "net.safetensors", detector(name, **options))
    assert part_macs(back, 0.25, size=(96, 64)) == part_macs(net, 0.25, size=(96, 64))
