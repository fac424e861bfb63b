"""Detections in COCO's format of results."""

import pytest
import torch
from pycocotools.mask import decode

from anywidth.detect.results import to_coco
from anywidth.errors import MeasurementError


def test_results_carry_raw_ids_and_sizes():
    masks = torch.zeros(1, 1, 6, 8)
    masks[0, 0, 2:4, 1:5], masks[0, 0, 5, 7] = 0.51, 0.5
    output = {
        "boxes": torch.tensor([[1.0, 2.0, 5.0, 4.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.25]),
        "masks": masks,
        "keypoints": torch.tensor([[[1.0, 2.0, 1.0], [3.0, 4.0, 1.0]]]),
    }
    (found,) = to_coco([output], torch.tensor([9]), (10, 20), ("bbox", "segm", "keypoints"))
    assert decode(found.pop("segmentation")).tolist() == (masks[0, 0] > 0.5).int().tolist()
    assert found == {
        "image_id": 9,
        "category_id": 20,
        "score": 0.25,
        "bbox": [1, 2, 4, 2],
        "keypoints": [1, 2, 1, 3, 4, 1],
    }


def test_wrong_outputs_are_named():
    output = {"boxes": torch.rand(1, 4), "labels": torch.tensor([3]), "scores": torch.rand(1)}
    with pytest.raises(ValueError, match="image id 8: labels from 3 to 3, but the data set has 2 classes"):
        to_coco([output], [8], (1, 2))
    with pytest.raises(
        ValueError, match="image id 8: the detector gives no masks, only boxes, labels, scores"
    ):
        to_coco([output], [8], (1, 2, 3), ("segm",))
    with pytest.raises(ValueError, match="1 outputs for 2 image ids"):
        to_coco([output], [8, 9], (1, 2, 3))
    output["boxes"][0, 1] = float("nan")
    with pytest.raises(MeasurementError, match="image id 8: boxes of a detection are not finite"):
        to_coco([output], [8], (1, 2, 3))
