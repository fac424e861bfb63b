"""MobileNet v1, v2 and MNASNet compute what the same networks of timm and torchvision compute."""

import pytest
import torch
from torch import nn

from anywidth.models import MNASNet, MobileNetV1, MobileNetV2


@pytest.mark.parametrize("build", [MobileNetV1, MobileNetV2, MNASNet])
@pytest.mark.parametrize("size", [(32, 32), (96, 64), (75, 50)])
def test_any_image_size(build, size):
    assert build(num_classes=5).eval()(torch.zeros(1, 3, *size)).shape == (1, 5)


def test_channels_stand_where_the_list_says():
    made = MobileNetV2(channels=list(range(3, 38)), num_classes=2)  # stem 3, first block 4, then 5 and 6, ...
    convs = [m for m in made.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    assert [m.out_channels for m in convs] == list(range(3, 38))
    filters = [m.out_channels for m in made.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert filters == [3, *range(5, 37, 2)]
    made = MobileNetV1(channels=list(range(3, 17)), num_classes=2)
    assert [m[0].out_channels for m in (made.features[0],)] == [3]
    assert [block.body[3].out_channels for block in made.features[1:]] == list(range(4, 17))


@pytest.mark.parametrize(
    ("build", "channels", "message"),
    [
        (
            MobileNetV1,
            [8] * 13,
            r"MobileNetV1: expected a list of 14 positive numbers of channels, got \[8, 8",
        ),
        (MobileNetV2, [8] * 34 + [0], "MobileNetV2: expected a list of 35 positive"),
        (MNASNet, "wide", "MNASNet: expected a list of 35 positive numbers of channels, got 'wide'"),
        (MobileNetV1, [8.0] * 14, "positive numbers of channels"),
    ],
)
def test_channels_that_cannot_be(build, channels, message):
    with pytest.raises(ValueError, match=message):
        build(channels=channels)
