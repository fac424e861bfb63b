"""Reading of data in COCO's format."""

import numpy as np
import pytest
import torch
from PIL import Image

from anywidth.data import load_coco
from coco_entries import MASKS, POINTS, drawn, entries_of, overlap, train_set
from coco_images import CROWD, EMPTY, KEYPOINTS, config_of, edit


def test_an_item_is_what_the_files_say(root, instances):
    images = train_set(root, MASKS)
    image, target = images[0]
    pixels = np.array(Image.open(root / "train2017" / "000000000001.png"))
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    entries = entries_of(instances, 1)
    boxes = np.array([e["bbox"] for e in entries])
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(target["boxes"], torch.from_numpy(boxes).float(), rtol=0, atol=0)
    label = {1: 1, 3: 2, 7: 3}
    assert target["labels"].tolist() == [label[e["category_id"]] for e in entries]
    assert target["labels"].dtype == target["iscrowd"].dtype == torch.int64
    assert target["image_id"] == 1
    assert target["area"].tolist() == pytest.approx([e["area"] for e in entries])
    assert target["masks"].dtype == torch.uint8
    for mask, entry in zip(target["masks"].numpy(), entries, strict=True):
        assert overlap(mask, drawn(entry, (96, 64))) > 0.85
        assert overlap(np.roll(mask, 6, 1), drawn(entry, (96, 64))) < 0.7  # the comparison can fail


def test_labels_and_category_ids_map_both_ways(root):
    splits = load_coco(config_of(root))
    assert splits.raw_ids == (1, 3, 7)
    assert splits.classes == ("person", "triangle", "disc")
    assert splits.train.label_of == {1: 1, 3: 2, 7: 3}
    assert all(splits.raw_ids[label - 1] == raw for raw, label in splits.test.label_of.items())


def test_images_without_objects_are_tested_but_not_trained_on(root):
    splits = load_coco(config_of(root), MASKS)
    assert splits.train.ids == (1, 2, 3, 5, 6)
    assert splits.test.ids == (101, 102, 103, 104)
    image, target = splits.test[EMPTY]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, *image.shape[1:])
    assert target["labels"].dtype == torch.int64
    with_points = load_coco(config_of(root), POINTS).test[EMPTY][1]
    assert with_points["keypoints"].shape == (0, 17, 3)


def test_a_crowd_goes_together_with_its_mask(root, instances):
    splits = load_coco(config_of(root), MASKS)
    _, target = splits.train[CROWD]
    entries = [e for e in entries_of(instances, CROWD + 1) if not e["iscrowd"]]
    assert len(target["labels"]) == len(target["masks"]) == len(entries) == 3
    for mask, entry in zip(target["masks"].numpy(), entries, strict=True):
        assert overlap(mask, drawn(entry, mask.shape[::-1])) > 0.85
    _, tested = splits.test[CROWD]
    assert tested["iscrowd"].tolist() == [1, 0, 0, 0]
    assert tested["masks"][0].sum() == tested["masks"][0, :, :10].numel()


def test_what_other_makers_leave_out_is_filled_in(root, instances):
    def change(document):
        for k, entry in enumerate(document["annotations"]):
            del entry["iscrowd"]
            if k % 2:
                del entry["area"]

    edit(instances, change)
    _, target = train_set(root)[0]
    box = target["boxes"][1]
    assert target["area"][1] == (box[2] - box[0]) * (box[3] - box[1])
    assert target["iscrowd"].tolist() == [0, 0, 0]


def test_keypoints_come_from_their_own_file(root):
    splits = load_coco(config_of(root), POINTS)
    assert splits.keypoints == KEYPOINTS
    assert splits.classes == ("person",)
    entry = entries_of(root / "annotations" / "person_keypoints_train2017.json", 1)[0]
    _, target = splits.train[0]
    assert target["keypoints"].reshape(-1).tolist() == entry["keypoints"]


def test_nothing_is_printed(root, capsys):
    load_coco(config_of(root), MASKS)
    assert capsys.readouterr().out == ""
