import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.errors import WidthError
from anywidth.interop import joslim
from anywidth.interop.joslim import MODELS, decode, new
from joslim_reference import MOBILE, NAMES, Channels, count, decoded
from joslim_tables import KINDS, vector


def outputs(module: nn.Module) -> list[int]:
    return [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("name", NAMES)
def test_vectors_decode_to_the_same_channels(name):
    net = new(name, image_size=32)
    for kind in KINDS:
        shares = vector(kind, count(name))
        small = net.extract(decode(net, shares)).features
        stages = [m for m in small if hasattr(m, "head")]
        found = Channels(
            stem=outputs(small)[0],
            first=outputs(small[1])[-1] if name in MOBILE else 0,
            stages=tuple(
                (outputs(stage)[-1], tuple(outputs(block)[0] for block in (stage.head, *stage.tail)))
                for stage in stages
            ),
        )
        assert found == decoded(name, shares)


def test_worked_example():
    net = new("slim_resnet20")
    width = decode(net, [0.42] * 12)
    assert sorted(set(width.values())) == [6, 13, 26]
    assert joslim.reference_macs(net, width) / joslim.reference_macs(net, 1.0) == pytest.approx(
        0.15635676, abs=5e-9
    )


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5] * 11, "a vector of this JoslimCifarResNet has 12 entries, got 11"),
        ([0.5] * 3 + [0.0] + [0.5] * 8, r"entry 4 of the vector is 0\.0, expected a share in \(0, 1\]"),
        ([0.5] * 11 + [1.01], r"entry 12 of the vector is 1\.01"),
        ([float("nan")] + [0.5] * 11, "entry 1 of the vector is nan"),
        ([0.06] + [0.5] * 11, r"entry 1 of the vector is 0\.06: of 16 channels of features\.1\.head\.conv\.3 none would be left"),
        ([0.5, 0.05] + [0.5] * 10, r"of 16 channels of features\.1\.head\.conv\.0 none .*at least 1 / 16"),
    ],
)  # fmt: skip
def test_vectors_that_cannot_be(shares, message):
    with pytest.raises(WidthError, match=message):
        decode(new("slim_resnet20"), shares)


def test_a_stream_never_has_fewer_channels_than_the_one_before():
    net = new("slim_resnet20")
    width = decode(net, [1.0] * 4 + [0.01] + [0.5] * 3 + [0.125] + [0.5] * 3)
    assert [width[n] for n in ("features.0", "features.2.head.conv.3", "features.3.head.conv.3")] == [
        16,
        16,
        16,
    ]


def test_the_last_entry_of_a_mobilenet_is_not_used():
    net = new("slim_mobilenetv2", image_size=32)
    assert decode(net, [0.5] * 23 + [1.0]) == decode(net, [0.5] * 24)
    with pytest.raises(WidthError, match="entry 24 of the vector is 2"):
        decode(net, [0.5] * 23 + [2.0])


def test_networks_that_vectors_are_not_for():
    other = aw.Elastic(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
    with pytest.raises(
        WidthError, match=r"vectors of Joslim are for Joslim's networks, .*; this is a Sequential"
    ):
        decode(other, [0.5])
    frozen = new("slim_resnet20", freeze="features.1.head.conv.0")
    assert decode(frozen, [0.5, 1.0] + [0.5] * 10)["features.0"] == 8
    with pytest.raises(
        WidthError, match=r"features\.1\.head\.conv\.0: its 16 channels are frozen .* gives 8"
    ):
        decode(frozen, [0.5] * 12)


def test_networks_that_nothing_is_frozen_in():
    net = aw.Elastic(MODELS["slim_mobilenetv3_small"](), torch.zeros(1, 3, 32, 32))
    width = decode(net, [0.5] * 16)
    assert joslim.reference_macs(net, width) < joslim.reference_macs(net, 1.0)
    assert width["features.6.conv"] == 576
