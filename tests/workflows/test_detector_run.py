from types import SimpleNamespace

import pytest
import torch

from anywidth import data
from anywidth.errors import RecipeError
from anywidth.recipe import DetectionRecipe
from anywidth.workflows import detector_run
from anywidth.workflows.detector_run import DetectorRun, open_detector, plain_detector
from coco_images import make_coco


def recipe(root="coco", *, detector=(), batch_size=2, **sections) -> DetectionRecipe:
    contents = {
        "detector": {"name": "retinanet_resnet50_fpn", **dict(detector)},
        "data": {"root": str(root), "batch_size": batch_size},
        "train": {"epochs": 2, "lr": 0.1},
        **sections,
    }
    return DetectionRecipe.model_validate(contents)


@pytest.fixture
def open_run(tmp_path) -> DetectorRun:
    settings = recipe(make_coco(tmp_path / "coco", train=5, val=3), calibration={"batches": 2})
    splits = data.load_coco(settings.data, ["boxes"])
    return DetectorRun(path=tmp_path / "run", recipe=settings, splits=splits, device=torch.device("cpu"))


def test_the_batches_of_an_epoch_go_on_after_steps(open_run):
    whole, later = (list(open_run.train_batches(0, skipped)) for skipped in (0, 1))
    assert len(whole) == 2
    assert len(later) == 1
    assert all(torch.equal(a, b) for a, b in zip(whole[1][0], later[0][0], strict=True))


def test_calibration_is_of_the_first_batches_of_training(open_run):
    asked = []
    net = SimpleNamespace(calibrate=lambda *images, **options: asked.append((len(images[0]), options)))
    open_run.calibrate_(net, [0.5])
    assert asked == [(2, {"widths": [0.5], "batches": 2, "total": None})]


def test_the_size_of_images_goes_to_the_detector(monkeypatch):
    built = []
    monkeypatch.setattr(
        detector_run.detectors, "detector", lambda name, **options: built.append((name, options))
    )
    plain_detector(recipe(detector={"min_size": 64, "max_size": 96}), 4, keypoints=5)
    plain_detector(recipe(detector={"name": "ssdlite320_mobilenet_v3_large"}), 4)
    assert built == [
        ("retinanet_resnet50_fpn", {"num_classes": 4, "min_size": 64, "max_size": 96, "num_keypoints": 5}),
        ("ssdlite320_mobilenet_v3_large", {"num_classes": 4}),
    ]


def test_arguments_that_cannot_be_are_refused():
    with pytest.raises(
        RecipeError, match=r"detector.kwargs: min_size, num_classes is set by a key of the section"
    ):
        plain_detector(recipe(detector={"kwargs": {"num_classes": 3, "min_size": 9}}), 4)
    with pytest.raises(RecipeError, match=r"detector\.kwargs: .*depth"):
        plain_detector(recipe(detector={"kwargs": {"depth": 3}}), 4)


@pytest.fixture
def quick(monkeypatch):
    """Detectors that nobody runs are not built."""

    def of_heads(**heads):
        model = SimpleNamespace(roi_heads=SimpleNamespace(**heads))
        monkeypatch.setattr(detector_run, "plain_detector", lambda *arguments: model)

    return of_heads


def test_a_run_reads_what_its_detector_learns_from(quick, tmp_path):
    root = make_coco(tmp_path / "coco", train=5, val=3)
    quick(mask_head=1)
    splits = open_detector(tmp_path, recipe(root)).splits
    assert "masks" in splits.train[0][1]
    assert splits.keypoints == ()
    quick(keypoint_head=1)
    assert "keypoints" in open_detector(tmp_path, recipe(root)).splits.train[0][1]


def test_keypoints_of_another_number_need_their_spread(quick, tmp_path):
    quick(keypoint_head=1)
    root = make_coco(tmp_path / "coco", train=5, val=3)
    settings = recipe(root, data={"root": str(root), "batch_size": 2, "sigmas": [0.1] * 3})
    with pytest.raises(RecipeError, match=r"the data has 17 keypoints, and data\.sigmas has 3"):
        open_detector(tmp_path, settings)


def test_norms_of_ssdlite_need_two_images(quick, tmp_path):
    quick()
    root = make_coco(tmp_path / "coco", train=5, val=3)
    ssdlite = {"name": "ssdlite320_mobilenet_v3_large"}
    with pytest.raises(RecipeError, match="needs two images or more; now 1"):
        open_detector(tmp_path, recipe(root, detector=ssdlite, batch_size=1))
    open_detector(tmp_path, recipe(root, detector={**ssdlite, "constant_norms": True}, batch_size=1))
    open_detector(tmp_path, recipe(root, detector=ssdlite))
