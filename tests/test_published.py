"""Channel counts, MACs and parameters of published slimmable networks come out of ordinary models and rounding policies.

Numbers: Universally Slimmable MobileNet v2 (arXiv 1903.05134) at its 27 calibrated widths; MACs without pooling, and
parameters with the affine pairs of the batch norms.
"""

import pytest
import torch
import torchvision

from anywidth import Elastic, errors

US_MOBILENET_V2 = {
    0.35: (59_285_808, 1_677_128),
    0.375: (80_042_992, 1_757_400),
    0.4: (80_695_280, 1_770_728),
    0.425: (87_977_856, 1_851_128),
    0.45: (88_648_960, 1_864_840),
    0.475: (96_441_920, 1_954_584),
    0.5: (97_131_840, 1_968_680),
    0.525: (100_368_976, 2_035_384),
    0.55: (106_668_416, 2_082_504),
    0.575: (150_231_376, 2_202_136),
    0.6: (150_958_928, 2_217_000),
    0.625: (161_160_336, 2_331_704),
    0.65: (161_906_704, 2_346_952),
    0.675: (165_915_296, 2_429_400),
    0.7: (173_642_400, 2_481_384),
    0.725: (185_217_376, 2_611_448),
    0.75: (209_069_792, 2_636_424),
    0.775: (213_586_416, 2_729_240),
    0.8: (222_482_464, 2_792_488),
    0.825: (235_428_656, 2_933_176),
    0.85: (254_197_616, 2_969_608),
    0.875: (268_181_040, 3_124_632),
    0.9: (269_021_488, 3_141_800),
    0.925: (274_309_568, 3_250_360),
    0.95: (284_539_200, 3_316_552),
    0.975: (299_896_192, 3_486_936),
    1.0: (300_774_272, 3_504_872),
}
S_RESNET_50_CHANNELS = {
    0.25: (16, 64, 128, 256, 512),
    0.5: (32, 128, 256, 512, 1024),
    0.75: (48, 192, 384, 768, 1536),
}


@pytest.fixture(scope="module")
def mobilenet() -> Elastic:
    model = torchvision.models.mobilenet_v2(weights=None)
    hidden = [f"features.{i}.conv.0.0" for i in range(2, 18)]
    return Elastic(
        model,
        torch.randn(1, 3, 224, 224),
        divisor={"*": 8} | dict.fromkeys(hidden, 48),
        freeze=["features.18"],
    )


def test_mobilenet_v2_at_every_published_width(mobilenet):
    widths = list(US_MOBILENET_V2)
    assert dict(zip(widths, mobilenet.macs(widths).tolist(), strict=True)) == {
        w: m for w, (m, _) in US_MOBILENET_V2.items()
    }
    assert dict(zip(widths, mobilenet.params(widths).tolist(), strict=True)) == {
        w: p for w, (_, p) in US_MOBILENET_V2.items()
    }


def test_average_pools_as_the_published_tables_count_them(mobilenet):
    assert mobilenet.macs(0.35, convention="slimmable") == 59_348_528
    assert mobilenet.macs(1.0, convention="slimmable") == 300_836_992


@pytest.mark.parametrize("width", S_RESNET_50_CHANNELS)
def test_resnet_50_streams(width):
    model = torchvision.models.resnet50(weights=None)
    net = Elastic(model, torch.randn(1, 3, 64, 64))
    channels = net.space.channels(net.space.uniform(width))
    names = ("conv1", *(f"layer{i}.0.conv3" for i in range(1, 5)))
    assert tuple(channels[n] for n in names) == S_RESNET_50_CHANNELS[width]


@pytest.mark.parametrize(
    ("policy", "message"),
    [({"nothing": 8}, "unknown channel group in a rounding policy"), ({"*": 0}, "at least 1")],
)
def test_policies_that_cannot_be(policy, message):
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Linear(8, 2))
    with pytest.raises(errors.WidthError, match=message):
        Elastic(model, torch.randn(1, 3), divisor=policy)
