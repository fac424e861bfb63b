"""Flips and scaling of images with what is on them."""

import numpy as np
import pytest
import torch
from torchvision.tv_tensors import BoundingBoxes

from anywidth.data import coco_set
from anywidth.data.coco import mirrored
from anywidth.data.coco_noise import flipped, rescaled
from coco_images import KEYPOINTS, config_of, edit, make_coco

MASKS, POINTS = ("boxes", "masks"), ("boxes", "masks", "keypoints")


@pytest.fixture
def root(tmp_path):
    return make_coco(tmp_path / "coco")


def train(root, need=("boxes",), **values):
    return coco_set(config_of(root, **values), "train", need)


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
