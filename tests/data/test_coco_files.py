"""Bad data in COCO's format: every message names the file and the image."""

import sys

import pytest
from PIL import Image

from anywidth.data import coco_set, load_coco
from anywidth.data.imageset import Failure
from anywidth.errors import DataError
from coco_entries import MASKS, POINTS, train_set
from coco_images import config_of, edit


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
    images = train_set(root)
    (root / "train2017" / "000000000001.png").unlink()
    failure = images[0]
    assert isinstance(failure, Failure)
    assert "000000000001.png (image id 1 in" in failure.message
    assert "no such file" in failure.message


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_damaged_image_is_named(root, content):
    path = root / "train2017" / "000000000001.png"
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    failure = train_set(root)[0]
    assert isinstance(failure, Failure)
    assert f"{path} (image id 1 in" in failure.message
    assert "cannot be read" in failure.message


def test_an_image_of_another_size_is_named(root):
    Image.new("RGB", (50, 50)).save(root / "train2017" / "000000000001.png")
    failure = train_set(root)[0]
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
        train_set(root)
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
        train_set(root, MASKS)
    assert len(train_set(root)) == 5


def test_a_mask_that_cannot_be_read_is_named(root, instances):
    edit(instances, set_in("annotations", 0, "segmentation", [["a"] * 6]))
    failure = train_set(root, MASKS)[0]
    assert isinstance(failure, Failure)
    assert "image id 1" in failure.message
    assert "its annotations cannot be read" in failure.message


def test_absent_keypoints_are_an_error_for_a_model_with_keypoints(root):
    path = root / "annotations" / "person_keypoints_train2017.json"
    with pytest.raises(DataError, match=r"of image id 1 .*has no keypoints.*person_keypoints_\*\.json"):
        train_set(root, POINTS, train_keypoints="annotations/instances_train2017.json")
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
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert message_of(root).endswith("needs the package pycocotools: pip install 'anywidth[detect]'")


def test_nothing_left_to_train_on(root):
    with pytest.raises(DataError, match="none of 6 images has an annotation to learn from"):
        train_set(root, min_side=500)


def test_what_is_needed_has_a_name(root):
    with pytest.raises(ValueError, match=r"need: \['boxs'\]: expected some of boxes, masks, keypoints"):
        train_set(root, ("boxs",))
