from dataclasses import FrozenInstanceError

import pytest

from anywidth.detect import DetectorConfig, elastic_detector


def test_a_square_is_named_by_its_side():
    assert DetectorConfig(size=64).shape == (64, 64)
    assert DetectorConfig(size=[48, 96]).shape == (48, 96)


def test_an_unknown_preset_is_refused_before_a_model_is_built():
    with pytest.raises(ValueError, match="preset='half' is unknown; known are full, reference"):
        DetectorConfig(preset="half")
    with pytest.raises(ValueError, match="preset='half' is unknown"):
        elastic_detector("fasterrcnn_resnet50_fpn", preset="half")


def test_a_config_stays():
    with pytest.raises(FrozenInstanceError):
        DetectorConfig().size = 64
