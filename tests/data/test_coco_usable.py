import logging

from coco_entries import MASKS, POINTS, drawn, entries_of, overlap, train_set
from coco_images import edit


def test_small_images_are_left_out_of_training(root):
    assert train_set(root, min_side=65).ids == (3,)


def test_boxes_are_clipped_and_useless_ones_left_out_with_one_warning(root, instances, caplog):
    def change(document):
        boxes = [[-5, -5, 20, 20], [90, 60, 50, 50], [10, 10, 0.5, 20], [200, 10, 20, 20]]
        first = document["annotations"][0]
        document["annotations"] = [
            {**first, "id": k + 1, "bbox": box, "area": 10} for k, box in enumerate(boxes)
        ]
        document["annotations"].append({**first, "id": 9, "area": 0})
        document["annotations"].append({**first, "id": 10, "image_id": 2, "bbox": [300, 0, 9, 9]})

    edit(instances, change)
    with caplog.at_level(logging.WARNING):
        images = train_set(root)
    assert images.ids == (1,)
    assert images[0][1]["boxes"].tolist() == [[0, 0, 15, 15], [90, 60, 96, 64]]
    small, outside = (record.getMessage() for record in caplog.records)
    assert small == (
        f"{instances}: 2 annotations are left out because they have no area, or a side below 1 pixel; image id 1 "
        "(000000000001.png)"
    )
    assert outside.endswith(
        "they lie outside their image; image id 1 (000000000001.png), 2 (000000000002.png)"
    )


def test_polygons_without_an_inside_are_left_out(root, instances, caplog):
    def change(document):
        document["annotations"][0]["segmentation"] = [[1, 1, 5, 5]]
        document["annotations"][1]["segmentation"].append([1, 1, 5, 5])

    edit(instances, change)
    with caplog.at_level(logging.WARNING):
        images = train_set(root, MASKS)
    assert "1 annotations are left out because they have a mask of fewer than three corners" in caplog.text
    before, after = entries_of(instances, 1)[1], images[0][1]["masks"][0].numpy()
    assert overlap(after, drawn(before, (96, 64))) > 0.85


def test_images_without_a_labelled_keypoint_are_left_out_for_keypoints(root):
    def change(document):
        document["annotations"][0]["keypoints"] = [0] * 51

    edit(root / "annotations" / "person_keypoints_train2017.json", change)
    assert train_set(root, POINTS).ids == (2, 3, 5, 6)
