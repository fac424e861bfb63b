import json
import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from anywidth.data import CocoConfig, coco_set, load_coco
from anywidth.data.coco import mirrored
from anywidth.data.coco_noise import flipped, rescaled
from anywidth.data.imageset import Failure
from anywidth.errors import DataError
from coco_images import CROWD, EMPTY, KEYPOINTS, edit, make_coco

MASKS, POINTS = ("boxes", "masks"), ("boxes", "masks", "keypoints")


@pytest.fixture
def root(tmp_path):
    return make_coco(tmp_path / "coco")


@pytest.fixture
def instances(root):
    return root / "annotations" / "instances_train2017.json"


def config_of(root, **values) -> CocoConfig:
    return CocoConfig(**{"root": str(root), "batch_size": 2, "flip": 0.0, **values})


def train(root, need=("boxes",), **values):
    return coco_set(config_of(root, **values), "train", need)


def entries_of(path, image_id):
    return [e for e in json.loads(path.read_text())["annotations"] if e["image_id"] == image_id]


def drawn(entry, size) -> np.ndarray:
    """A polygon by another library than pycocotools."""
    canvas = Image.new("L", size)
    ImageDraw.Draw(canvas).polygon(entry["segmentation"][0], fill=1)
    return np.array(canvas)


def overlap(a, b) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_an_item_is_what_the_files_say(root, instances):
    images = train(root, MASKS)
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


def test_small_images_are_left_out_of_training(root):
    assert train(root, min_side=65).ids == (3,)
    with pytest.raises(DataError, match="none of 6 images has an annotation to learn from"):
        train(root, min_side=500)


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
        images = train(root)
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
        images = train(root, MASKS)
    assert "1 annotations are left out because they have a mask of fewer than three corners" in caplog.text
    before, after = entries_of(instances, 1)[1], images[0][1]["masks"][0].numpy()
    assert overlap(after, drawn(before, (96, 64))) > 0.85


def test_what_other_makers_leave_out_is_filled_in(root, instances):
    def change(document):
        for k, entry in enumerate(document["annotations"]):
            del entry["iscrowd"]
            if k % 2:
                del entry["area"]

    edit(instances, change)
    _, target = train(root)[0]
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


def test_images_without_a_labelled_keypoint_are_left_out_for_keypoints(root):
    def change(document):
        document["annotations"][0]["keypoints"] = [0] * 51

    edit(root / "annotations" / "person_keypoints_train2017.json", change)
    assert train(root, POINTS).ids == (2, 3, 5, 6)


def mirror(image, target):
    """The mirror image in numpy, from the definition."""
    width = image.shape[2]
    boxes, points = target["boxes"].numpy(), target["keypoints"].numpy()
    expected = {
        "boxes": np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
        "masks": target["masks"].numpy()[:, :, ::-1].copy(),
        "keypoints": np.zeros_like(points),
    }
    for k, name in enumerate(KEYPOINTS):
        side, _, part = name.partition("_")
        other = f"{({'left': 'right', 'right': 'left'})[side]}_{part}" if part else name
        for n in range(len(points)):
            x, y, visible = points[n, KEYPOINTS.index(other)]
            expected["keypoints"][n, k] = (width - 1 - x, y, visible) if visible else (0, 0, 0)
    return image.numpy()[:, :, ::-1].copy(), expected


def test_a_flip_is_the_mirror_image(root):
    plain, noisy = train(root, POINTS), train(root, POINTS, flip=1.0)
    for position in range(len(plain)):
        (image, target), (mirrored_image, found) = plain[position], noisy[position, 5]
        expected_image, expected = mirror(image, target)
        torch.testing.assert_close(mirrored_image, torch.from_numpy(expected_image), rtol=0, atol=0)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], torch.from_numpy(value), rtol=0, atol=0)
        unchanged = flipped(image, {"keypoints": target["keypoints"]}, tuple(range(17)))[1]["keypoints"]
        assert not np.allclose(unchanged, expected["keypoints"])  # the comparison can fail
        twice = flipped(mirrored_image, {"keypoints": found["keypoints"]}, mirrored(KEYPOINTS))[1]
        torch.testing.assert_close(twice["keypoints"], target["keypoints"], rtol=0, atol=0)


def test_a_hidden_keypoint_changes_side_with_its_flag(root):
    def change(document):
        for entry in document["annotations"]:
            entry["keypoints"][3 * KEYPOINTS.index("left_eye") + 2] = 1

    edit(root / "annotations" / "person_keypoints_train2017.json", change)
    flags = train(root, POINTS, flip=1.0)[0, 3][1]["keypoints"][0, :, 2]
    assert flags[KEYPOINTS.index("right_eye")] == 1
    assert flags[KEYPOINTS.index("left_eye")] == 2


def test_half_of_the_images_are_flipped(root):
    plain, images = train(root), train(root, flip=0.5)
    flips = [not torch.equal(images[0, seed][0], plain[0][0]) for seed in range(200)]
    assert 70 < sum(flips) < 130
    assert torch.equal(images[0, 3][0], images[0, 3][0])


@pytest.mark.parametrize("factor", [0.5, 0.77, 1.0, 1.6, 3.0])
def test_scaling_moves_everything_alike(root, factor):
    images = train(root, POINTS)
    for position in range(len(images)):
        picture, entry = images.wrapped[position]
        target = images._target(1, entry, images.images.kept[images.ids[position]], picture.size[::-1])
        image = images[position][0]
        moved, found = rescaled(image, target, factor, (0.3, 0.8))
        assert moved.shape == image.shape
        height, width = image.shape[1:]
        for mask, box in zip(found["masks"], found["boxes"], strict=True):
            ys, xs = torch.nonzero(mask, as_tuple=True)
            around = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            torch.testing.assert_close(around, box.as_subclass(torch.Tensor), rtol=0, atol=2.0)
        for points, box in zip(found["keypoints"], found["boxes"], strict=True):
            seen = points[points[:, 2] > 0]
            assert ((seen[:, :2] > box[:2] - 1.5) & (seen[:, :2] < box[2:] + 0.5)).all()
            assert (seen[:, :2] > -0.5).all()
            assert (seen[:, :2] < torch.tensor([width, height]) - 0.5).all()
        if factor == 1.0:
            torch.testing.assert_close(moved, image)
            torch.testing.assert_close(found["keypoints"], target["keypoints"])
            torch.testing.assert_close(found["area"], target["area"])


def test_scaled_keypoints_follow_their_pixels():
    image, points = torch.zeros(3, 40, 40), torch.tensor([[[10.0, 20.0, 2.0], [39.0, 39.0, 1.0]]])
    target = {"boxes": _box([[5.0, 5.0, 30.0, 30.0]], (40, 40)), "labels": torch.tensor([1])}
    target |= {"area": torch.tensor([100.0]), "iscrowd": torch.tensor([0]), "keypoints": points}
    _, found = rescaled(image, target, 2.0, (0.5, 0.25))
    # pixel 10 covers 10..11, after scaling 20..22, whose centre is 21, the pixel number 20.5; the crop starts at 20 and 10
    assert found["keypoints"].tolist() == [[[0.5, 30.5, 2.0], [0.0, 0.0, 0.0]]]
    assert found["boxes"].tolist() == [[0.0, 0.0, 40.0, 40.0]]
    assert found["area"].tolist() == [400.0]


def _box(values, size):
    from torchvision.tv_tensors import BoundingBoxes

    return BoundingBoxes(values, format="XYXY", canvas_size=size)  # pyright: ignore


def test_objects_that_are_cut_away_are_left_out(root):
    images = train(root, MASKS, scale=(4.0, 4.0))
    counts = set()
    for seed in range(30):
        _, target = images[0, seed]
        assert len({len(target[key]) for key in ("boxes", "labels", "area", "iscrowd", "masks")}) == 1
        assert (target["boxes"][:, 2:] - target["boxes"][:, :2] >= 1).all()
        counts.add(len(target["labels"]))
    assert min(counts) < 3


def test_a_scaled_image_is_flipped_as_any_other(root):
    plain, noisy = (train(root, POINTS, scale=(0.5, 2.0), flip=flip) for flip in (0.0, 1.0))
    for seed in range(20):
        (image, target), (flipped_image, found) = plain[1, seed], noisy[1, seed]
        expected_image, expected = mirror(image, target)
        torch.testing.assert_close(flipped_image, torch.from_numpy(expected_image), rtol=0, atol=0)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], torch.from_numpy(value), rtol=0, atol=1e-4)


def test_names_of_the_mirror():
    assert mirrored(("nose", "left_eye", "right_eye", "upper_left_lip", "upper_right_lip", "left_only")) == (
        0, 2, 1, 4, 3, 5,
    )  # fmt: skip


# Errors


def message_of(root, need=("boxes",), part="train") -> str:
    with pytest.raises(DataError) as caught:
        coco_set(config_of(root), part, need)
    return str(caught.value)


def test_missing_files_are_named(root, instances):
    (root / "val2017").rename(root / "other")
    assert f"{root / 'val2017'}: no such folder of images" in message_of(root, part="val")
    (root / "train2017" / "000000000002.png").unlink()
    (root / "train2017" / "000000000005.png").unlink()
    message = message_of(root)
    assert f"{root / 'train2017' / '000000000002.png'} (image id 2 in {instances}): no such file" in message
    assert ", and 1 more" in message
    instances.unlink()
    assert f"{instances}: no such file of annotations" in message_of(root)


def test_an_image_that_vanishes_is_named(root):
    images = train(root)
    (root / "train2017" / "000000000001.png").unlink()
    failure = images[0]
    assert isinstance(failure, Failure)
    assert "000000000001.png (image id 1 in" in failure.message
    assert "no such file" in failure.message


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_damaged_image_is_named(root, content):
    path = root / "train2017" / "000000000001.png"
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    failure = train(root)[0]
    assert isinstance(failure, Failure)
    assert f"{path} (image id 1 in" in failure.message
    assert "cannot be read" in failure.message


def test_an_image_of_another_size_is_named(root):
    Image.new("RGB", (50, 50)).save(root / "train2017" / "000000000001.png")
    failure = train(root)[0]
    assert isinstance(failure, Failure)
    assert "image id 1" in failure.message
    assert "is 50x50 pixels, but its boxes were drawn on 96x64" in failure.message


@pytest.mark.parametrize("text", ["", "{", "[1, 2", '{"images": nan'])
def test_a_file_that_is_no_json(root, instances, text):
    instances.write_text(text)
    assert f"{instances}: is not JSON" in message_of(root)


def set_in(part, number, key, value):
    def change(document):
        if value is None:
            del document[part][number][key]
        else:
            document[part][number][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.pop("images"), "has no list 'images'"),
        (lambda d: d.pop("categories"), "has no list 'categories'"),
        (lambda d: d.pop("annotations"), "has no list 'annotations'"),
        (lambda d: d["categories"].clear(), "has no categories"),
        (set_in("images", 0, "width", None), r"images\[0\] \(id 1, file_name '000000000001.png'\) lacks 'width'"),
        (set_in("images", 0, "id", None), r"images\[0\] \(file_name '000000000001.png'\) lacks 'id'"),
        (set_in("images", 1, "id", 1), r"images\[1\]: the id 1 is used twice"),
        (set_in("images", 0, "height", 0), r"image id 1 \(000000000001.png\): width 96, height 0"),
        (set_in("categories", 0, "name", None), r"categories\[0\] \(id 1\) lacks 'name'"),
        (set_in("annotations", 0, "bbox", None), r"annotations\[0\] \(id \d+, image_id 1\) lacks 'bbox'"),
        (set_in("annotations", 0, "category_id", None), r"\(id \d+, image_id 1\) lacks 'category_id'"),
        (set_in("annotations", 0, "image_id", None), r"annotations\[0\] \(id \d+\) lacks 'image_id'"),
        (set_in("annotations", 0, "id", "x"), r"annotations\[0\]: id 'x', expected a whole number"),
        (set_in("annotations", 0, "category_id", 2), r"of image id 1 \(000000000001.png\): category_id 2 is none"),
        (set_in("annotations", 0, "image_id", 77), r"annotation \d+: image_id 77 is none of the file's 6 images"),
        (set_in("annotations", 0, "bbox", [1, 2, 3]), r"image id 1 .*: bbox \[1, 2, 3\], expected four"),
        (set_in("annotations", 0, "bbox", [1, 2, 3, float("nan")]), r"image id 1 .*: bbox .*nan"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(root, instances, change, match):
    edit(instances, change)
    with pytest.raises(DataError, match=match) as caught:
        train(root)
    assert str(caught.value).startswith(str(instances))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (None, "has no segmentation"),
        ([], "has no segmentation"),
        ({"counts": [0, 4], "size": [2, 2]}, r"its mask has the size \[2, 2\], the image \[64, 96\]"),
    ],
)
def test_absent_masks_are_an_error_for_a_model_with_masks(root, instances, value, match):
    edit(instances, set_in("annotations", 0, "segmentation", value))
    with pytest.raises(DataError, match=rf"image id 1 \(000000000001.png\): {match}"):
        train(root, MASKS)
    assert len(train(root)) == 5


def test_a_mask_that_cannot_be_read_is_named(root, instances):
    edit(instances, set_in("annotations", 0, "segmentation", [["a"] * 6]))
    failure = train(root, MASKS)[0]
    assert isinstance(failure, Failure)
    assert "image id 1" in failure.message
    assert "its annotations cannot be read" in failure.message


def test_absent_keypoints_are_an_error_for_a_model_with_keypoints(root):
    path = root / "annotations" / "person_keypoints_train2017.json"
    with pytest.raises(DataError, match=r"of image id 1 .*has no keypoints.*person_keypoints_\*\.json"):
        train(root, POINTS, train_keypoints="annotations/instances_train2017.json")
    edit(path, set_in("annotations", 0, "keypoints", [1, 2, 2]))
    assert "3 values of keypoints, expected 51 for 17 keypoints" in message_of(root, POINTS)
    edit(path, set_in("annotations", 0, "keypoints", [1, 2]))
    assert "2 values of keypoints, expected x, y and visibility" in message_of(root, POINTS)


def test_keypoints_have_to_be_named(root):
    path = root / "annotations" / "person_keypoints_train2017.json"
    edit(path, set_in("categories", 0, "keypoints", None))
    assert "its categories name no keypoints" in message_of(root, POINTS)


def test_both_parts_have_the_same_classes(root):
    edit(
        root / "annotations" / "instances_val2017.json",
        lambda d: d["categories"].append({"id": 90, "name": "x"}),
    )
    with pytest.raises(DataError, match="3 and 4 raw_ids for training and testing are not the same"):
        load_coco(config_of(root))


def test_a_missing_package_names_the_extra(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert message_of(root).endswith("needs the package pycocotools.coco: pip install 'anywidth[detect]'")


def test_what_is_needed_has_a_name(root):
    with pytest.raises(ValueError, match=r"need: \['boxs'\]: expected some of boxes, masks, keypoints"):
        train(root, ("boxs",))


@pytest.mark.parametrize(
    "values", [{"batch_size": 0}, {"flip": 1.5}, {"scale": (2.0, 1.0)}, {"workers": -1}, {"min_side": 0}, {"eval_batch_size": 0}]
)  # fmt: skip
def test_a_number_out_of_its_range(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} = "):
        CocoConfig(root="x", **values)


def test_nothing_is_printed(root, capsys):
    load_coco(config_of(root), MASKS)
    assert capsys.readouterr().out == ""
