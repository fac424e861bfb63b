"""What the reader gives is what torchvision's detectors take, and what they give can be measured."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from anywidth.data import CocoConfig, coco_eval_batches, coco_train_batches, load_coco
from anywidth.detect.metrics import coco_metrics
from anywidth.detect.results import to_coco
from coco_images import make_coco


def detector(kind, classes):
    backbone = nn.Sequential(nn.Conv2d(3, 8, 7, 8, 3), nn.ReLU())
    backbone.out_channels = 8
    more = {
        "rpn_anchor_generator": AnchorGenerator(((16, 32),), ((1.0,),)),
        "box_roi_pool": MultiScaleRoIAlign(["0"], 3, 2),
        "box_head": TwoMLPHead(8 * 9, 16),
        "box_predictor": FastRCNNPredictor(16, classes + 1),
        "min_size": 64, "max_size": 100, "box_score_thresh": 0.0, "box_detections_per_img": 5,
    }  # fmt: skip
    if kind == "masks":
        return MaskRCNN(
            backbone, mask_head=MaskRCNNHeads(8, (8,), 1), mask_predictor=MaskRCNNPredictor(8, 8, classes + 1),
            mask_roi_pool=MultiScaleRoIAlign(["0"], 7, 2), **more,
        )  # fmt: skip
    return KeypointRCNN(
        backbone, keypoint_head=KeypointRCNNHeads(8, (8,)), keypoint_predictor=KeypointRCNNPredictor(8, 17),
        keypoint_roi_pool=MultiScaleRoIAlign(["0"], 7, 2), **more,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "metric"), [("masks", "segm"), ("keypoints", "keypoints")])
def test_a_detector_trains_on_the_batches_and_is_measured(tmp_path, kind, metric):
    root = make_coco(tmp_path / "coco")
    # Objects three times as large are often cut away, so that some images have none.
    config = CocoConfig(root=str(root), batch_size=2, eval_batch_size=2, scale=(0.5, 3.0))
    splits = load_coco(config, (kind,))
    model = detector(kind, len(splits.classes))
    counts = []
    for epoch in range(4):
        for images, targets in coco_train_batches(splits.train, config, seed=0, epoch=epoch):
            losses = model(images, targets)
            assert f"loss_{kind[:-1]}" in losses
            total = sum(losses.values())
            assert math.isfinite(total.item())
            total.backward()
            counts += [len(target["labels"]) for target in targets]
    assert 0 in counts
    model.eval()
    results = []
    with torch.no_grad():
        for images, targets in coco_eval_batches(splits.test, config):
            ids = [target["image_id"] for target in targets]
            results += to_coco(model(images), ids, splits.raw_ids, ("bbox", metric))
    assert {result["image_id"] for result in results} == {101, 102, 103, 104}
    found = coco_metrics(splits.test.path, results, ("bbox", metric))
    assert all(-1 <= value <= 1 for values in found.values() for value in values.values())
