import numpy as np
import pytest
import torch
from PIL import Image

from anywidth.detect.pictures import draw_detections

ORANGE = np.array([255, 127, 14])  # of the second class


def output(scores=(0.9, 0.2)):
    masks = torch.zeros(2, 1, 40, 60)
    masks[0, 0, 10:30, 10:40] = 1.0
    return {
        "boxes": torch.tensor([[10.0, 10.0, 40.0, 30.0], [45.0, 2.0, 58.0, 38.0]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor(scores),
        "masks": masks,
        "keypoints": torch.tensor([[[20.0, 20.0, 1.0]], [[50.0, 20.0, 1.0]]]),
    }


def drawn(path, outputs, **more):
    draw_detections(torch.zeros(3, 40, 60), outputs, classes=("ant", "bee"), path=path, **more)
    return np.array(Image.open(path).convert("RGB")).astype(int)


def near(pixels, colour, within=12):
    return (abs(pixels - np.asarray(colour)).max(-1) <= within).sum()


def test_one_panel_for_each_width(tmp_path):
    path = tmp_path / "a.png"
    one = drawn(path, {"0.5": output()})
    four = drawn(path, {str(k): output() for k in range(4)})
    six = drawn(path, {str(k): output() for k in range(5)}, truth=output(), title="an image")
    assert one.shape[1] == 540
    assert four.shape[:2] == (one.shape[0], 2160)
    assert six.shape[0] > 2 * one.shape[0]
    assert near(four, ORANGE) > 3.5 * near(one, ORANGE)


def test_boxes_masks_and_keypoints_are_where_they_belong(tmp_path):
    found = output()
    blank = drawn(tmp_path / "a.png", {"1": {k: v[:0] for k, v in found.items()}})
    pixels = drawn(tmp_path / "a.png", {"1": found})
    mask = near(pixels, 0.45 * ORANGE)
    black = near(blank, (0, 0, 0))
    assert 0.15 < mask / black < 30 * 20 / (40 * 60)  # less what the label and the keypoint hide
    rows, columns = np.nonzero(abs(pixels - 0.45 * ORANGE).max(-1) <= 12)
    dark = abs(blank).max(-1) == 0
    top, left = np.nonzero(dark.mean(1) > 0.5)[0].min(), np.nonzero(dark.mean(0) > 0.5)[0].min()
    scale = np.count_nonzero(dark.mean(0) > 0.5) / 60
    corners = np.array(
        [columns.min() - left, rows.min() - top, columns.max() + 1 - left, rows.max() + 1 - top]
    )
    np.testing.assert_allclose(corners / scale, [10, 10, 40, 30], atol=0.5)


def test_what_scores_little_is_left_out(tmp_path):
    blue = (31, 119, 180)  # of the first class
    found = {"1": output()}
    assert near(drawn(tmp_path / "a.png", found), blue) == 0
    assert near(drawn(tmp_path / "a.png", found, threshold=0.1), blue) > 100


def test_ground_truth_alone_without_scores(tmp_path):
    truth = {k: v for k, v in output().items() if k != "scores"}
    truth |= {"image_id": 3, "iscrowd": torch.tensor([0, 1]), "masks": truth["masks"][:, 0].to(torch.uint8)}
    assert near(drawn(tmp_path / "a.png", {}, truth=truth), 0.45 * ORANGE) > 1000


def test_wrong_labels_and_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no outputs to draw"):
        drawn(tmp_path / "a.png", {})
    found = output()
    found["labels"][0] = 3
    with pytest.raises(ValueError, match="labels from 1 to 3: expected 1 to 2"):
        drawn(tmp_path / "a.png", {"1": found})
