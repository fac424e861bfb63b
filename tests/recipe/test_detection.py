import pytest
from pydantic import ValidationError

from anywidth.recipe import DetectionRecipe


def recipe(detector=(), **sections) -> DetectionRecipe:
    contents = {
        "detector": {"name": "retinanet_resnet50_fpn", **dict(detector)},
        "data": {"root": "coco"},
        "train": {"epochs": 2, "lr": 0.1},
        **sections,
    }
    return DetectionRecipe.model_validate(contents)


def test_what_is_left_out_has_the_values_of_the_pages():
    default = recipe()
    assert default.widths.listed == (0.25, 0.5, 0.75, 1.0)
    assert (default.detector.min_size, default.detector.max_size, default.detector.size) == (800, 1333, 320)
    assert (default.detector.norm, default.widths.policy) == ("switchable", "listed")


def test_widths_are_ratios_or_labels_of_ratios():
    assert recipe(widths={"listed": [0.5, 1]}).widths.listed == (0.5, 1.0)
    assert recipe(widths={"listed": {"small": 0.5, "large": 1.0}}).widths.listed == {
        "small": 0.5,
        "large": 1.0,
    }


def test_a_recipe_that_was_written_back_is_read_again():
    first = recipe({"name": "ssdlite320_mobilenet_v3_large"})
    assert DetectionRecipe.model_validate(first.model_dump()) == first


@pytest.mark.parametrize(
    ("detector", "sections", "message"),
    [
        ({"name": "retinanet"}, {}, "detector.name = 'retinanet' is unknown; known are"),
        ({"parts": {"brain": 0.5}}, {}, "'brain' is no part of a detector"),
        ({"weights": "a.pt", "backbone": {"weights": "b"}}, {}, "both say where the weights come from"),
        (
            {"name": "ssdlite320_mobilenet_v3_large", "min_size": 64},
            {},
            "SSDlite scales every image to 320 x 320",
        ),
        ({"min_size": 900, "max_size": 800}, {}, "min_size = 900 is above detector.max_size = 800"),
        ({}, {"widths": {"policy": "sandwich"}}, "keeps batch norms for each listed width only"),
        ({"norm": "shared"}, {"widths": {"policy": "joslim"}}, "'joslim' is for classifiers"),
        ({}, {"widths": {"listed": []}}, "name at least one width"),
        ({}, {"widths": {"listed": {"a/b": 0.5}}}, "cannot hold '/'"),
        (
            {},
            {"train": {"epochs": 2, "lr": 0.1, "target": "labels"}},
            "train.target is a setting of classifiers",
        ),
        ({"mini_size": 3}, {}, "mini_size"),
    ],
)
def test_recipes_that_cannot_be(detector, sections, message):
    with pytest.raises(ValidationError, match=message):
        recipe(detector, **sections)


def test_shared_norms_have_any_width():
    assert recipe({"norm": "shared"}, widths={"policy": "sandwich", "random": 1}).widths.random == 1
