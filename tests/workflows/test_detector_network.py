from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.recipe import DetectionRecipe
from anywidth.workflows import detector_network
from anywidth.workflows.detector_network import new_detector, norms_learn
from anywidth.workflows.reporter import SILENT

X = torch.zeros(1, 3, 4, 4)


def run_of(**detector) -> SimpleNamespace:
    widths = detector.pop("widths", {})
    contents = {
        "detector": {"name": "retinanet_resnet50_fpn", "norm": "shared", **detector},
        "data": {"root": "coco"},
        "train": {"epochs": 2, "lr": 0.1},
        "widths": widths,
    }
    splits = SimpleNamespace(classes=("person", "disc"), keypoints=())
    return SimpleNamespace(
        recipe=DetectionRecipe.model_validate(contents), splits=splits, device=torch.device("cpu")
    )


def small_net(norm="shared", **options) -> Elastic:
    return Elastic(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)), X, norm=norm, **options
    )


@pytest.fixture
def built(monkeypatch):
    """What is asked of the parts that build a detector; a small network stands in for it."""
    asked = SimpleNamespace(net=small_net(widths=[0.5, 1.0]))

    def plain(recipe, classes, keypoints):
        asked.classes, asked.drawn = classes, torch.rand(3)
        return nn.Identity()

    def elastic(model, **options):
        asked.options = options
        return asked.net

    monkeypatch.setattr(detector_network, "plain_detector", plain)
    monkeypatch.setattr(detector_network.detect, "elastic_detector", elastic)
    return asked


def test_classes_are_those_of_the_data_with_the_background(built):
    new_detector(run_of(), SILENT)
    assert built.classes == 3
    new_detector(run_of(num_classes=91), SILENT)
    assert built.classes == 91
    with pytest.raises(
        RecipeError, match=r"num_classes = 2: the data has 2 categories, so 3 with the background"
    ):
        new_detector(run_of(num_classes=2), SILENT)


def test_weights_are_fixed_by_the_seed_and_the_global_generator_stays(built):
    drawn, state = [], torch.get_rng_state()
    for _ in range(2):
        new_detector(run_of(), SILENT)
        drawn.append(built.drawn)
        torch.rand(1)
        torch.set_rng_state(state)
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("detector", "constant"),
    [
        ({}, False),
        ({"constant_norms": True}, True),
        ({"constant_norms": False, "weights": "a.pt"}, False),
        ({"weights": "a.pt"}, None),
    ],
)
def test_norms_that_were_measured_nowhere_learn(built, monkeypatch, detector, constant):
    monkeypatch.setattr(detector_network.interop, "load_wide_", lambda net, path: None)
    run = run_of(**detector)
    run.calibrate_ = lambda net, widths: None
    new_detector(run, SILENT)
    assert built.options["constant_norms"] is constant


def test_narrow_widths_of_ordinary_weights_are_calibrated(built, monkeypatch, recorder):
    read, calibrated = [], []
    monkeypatch.setattr(detector_network.interop, "load_wide_", lambda net, path: read.append(path.name))
    run = run_of(weights="weights/a.pt")
    run.calibrate_ = lambda net, widths: calibrated.append(widths)
    net = new_detector(run, recorder)
    assert (read, calibrated) == (["a.pt"], [[net.width(0.5)]])
    assert recorder.messages == ["calibrating 1 widths of ordinary weights"]


def test_constant_norms_do_not_go_with_random_widths(built):
    built.net.norms.constant = True
    with pytest.raises(RecipeError, match=r"widths.policy = 'sandwich' draws widths that have none"):
        new_detector(run_of(widths={"policy": "sandwich", "random": 1}), SILENT)
    new_detector(run_of(), SILENT)


def test_what_a_detector_refuses_is_a_mistake_of_the_recipe(built, monkeypatch):
    def refuse(model, **options):
        raise ValueError("no such stage")

    monkeypatch.setattr(detector_network.detect, "elastic_detector", refuse)
    with pytest.raises(RecipeError, match="detector: no such stage"):
        new_detector(run_of(), SILENT)


def test_norms_learn_unless_they_are_frozen_constant_or_not_there():
    assert norms_learn(small_net())
    assert not norms_learn(small_net("frozen"))
    assert not norms_learn(Elastic(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), X))
    constant = small_net()
    constant.norms.constant = True
    assert not norms_learn(constant)
