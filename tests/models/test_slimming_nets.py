"""The networks of Network Slimming have the sizes and the initial weights that its paper and code state."""

import math

import pytest
import torch
from torch import nn

from anywidth.channel_select import handed_on
from anywidth.models import VGGA, CifarDenseNet, CifarVGG, PreActResNet
from slimming_counts import macs, norms, params, sizes
from slimming_tables import PRUNED, SIZES, TABLE_5


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    build, kwargs, ten, hundred, batch_norms = SIZES[name]
    image_size = 224 if build is VGGA else 32
    assert sizes(build, num_classes=10, image_size=image_size, **kwargs) == ten
    if hundred is not None:
        assert sizes(build, num_classes=100, image_size=image_size, **kwargs) == hundred
    with torch.device("meta"):
        assert norms(build(num_classes=10, **kwargs)) == batch_norms


@pytest.mark.parametrize(("name", "share"), PRUNED)
def test_pruned_networks(name, share):
    build, _, (full, _), _, (_, channels) = SIZES[name]
    position, _, expected, multiply_adds, cfg = PRUNED[name, share]
    net = build(channels=cfg)
    assert params(net) == expected
    assert expected < full
    assert macs(net) == multiply_adds
    kept = [handed_on(m) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert kept == [c for c in cfg if c != "M"]
    assert sum(kept) == channels - (position + 1)


# Tensors of the original's state dict without its selection vectors.
@pytest.mark.parametrize(
    ("name", "count"), [("vgg19", 98), ("resnet164", 983), ("densenet40", 236), ("vgg_a", 8 * 7 + 2 * 7 + 2)]
)
def test_state_dicts_have_as_many_tensors_as_the_originals(name, count):
    build, kwargs, *_ = SIZES[name]
    with torch.device("meta"):
        assert len(build(**kwargs).state_dict()) == count


def test_keys():
    keys = set(CifarVGG(11).state_dict())
    assert {"features.0.weight", "features.1.running_var", "features.25.weight", "classifier.bias"} <= keys
    keys = set(PreActResNet(20, channels=[9, 16, 16, 64, 16, 16, *PreActChannels]).state_dict())
    assert {
        "features.stem.weight", "features.stage1.0.bn1.index", "features.stage1.0.shortcut.weight",
        "features.stage1.1.bn1.weight", "features.stage3.1.conv3.weight", "features.norm.bias", "classifier.weight",
    } <= keys  # fmt: skip
    assert "features.stage1.1.bn1.index" not in keys
    keys = set(CifarDenseNet(10).state_dict())
    assert {
        "features.stem.weight", "features.block1.0.norm.weight", "features.transition2.conv.weight",
        "features.block3.1.conv.weight", "features.norm.weight", "classifier.weight",
    } <= keys  # fmt: skip


PreActChannels = [64, 32, 32, 128, 32, 32, 128, 64, 64, 256, 64, 64, 256]


@pytest.mark.parametrize(
    "build", [CifarVGG, PreActResNet, CifarDenseNet, lambda: VGGA(image_size=32), lambda: CifarVGG(11, 100)]
)
def test_initialisation(build):
    """Deviation sqrt(2 / (k k C_out)) of convolutions; scale 0.5; linear layers 0.01 in VGG, else as torch makes them."""
    torch.manual_seed(0)
    net, scores = build().requires_grad_(False), []
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            std = math.sqrt(2 / (m.kernel_size[0] * m.kernel_size[1] * m.out_channels))
            scores.append((m.weight.square().mean() / std**2 - 1) * math.sqrt(m.weight.numel() / 2))
            assert (m.bias is not None) == isinstance(net, VGGA)
            assert m.bias is None or not m.bias.any()
        elif isinstance(m, nn.Linear) and isinstance(net, CifarVGG | VGGA):
            scores.append((m.weight.square().mean() / 0.01**2 - 1) * math.sqrt(m.weight.numel() / 2))
            assert not m.bias.any()
        elif isinstance(m, nn.Linear):
            bound = m.in_features**-0.5  # uniform
            scores.append((m.weight.square().mean() * 3 / bound**2 - 1) * math.sqrt(m.weight.numel() * 1.25))
            assert float(m.weight.abs().max()) <= bound
            assert 0 < float(m.bias.abs().max()) <= bound
        elif isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (m.weight == 0.5).all()
            assert not m.bias.any()
            assert (m.eps, m.momentum) == (1e-5, 0.1)
    assert max(abs(float(score)) for score in scores) < 5  # standard errors of the variance


@pytest.mark.parametrize(
    "net",
    [CifarVGG(11, 5), PreActResNet(20, 5), CifarDenseNet(22, num_classes=5)],
    ids=lambda n: type(n).__name__,
)
@pytest.mark.parametrize("size", [(32, 32), (16, 16), (64, 48), (75, 50), (224, 224)])
def test_any_image_size(net, size):
    assert net.eval()(torch.rand(1, 3, *size)).shape == (1, 5)


def test_at_32_pixels_the_pools_are_those_of_the_paper():
    """2x2 of VGG, 8x8 of the others, before the linear layer."""
    x = torch.rand(2, 3, 32, 32)
    for net, kernel in ((CifarVGG(11), 2), (PreActResNet(20), 8), (CifarDenseNet(10), 8)):
        pooled = nn.functional.avg_pool2d(net.eval().features(x), kernel)
        assert pooled.shape[2:] == (1, 1)
        torch.testing.assert_close(net(x), net.classifier(pooled.flatten(1)))


@pytest.mark.parametrize(
    ("build", "kwargs", "message"),
    [
        (CifarVGG, {"depth": 12}, "CifarVGG: depth 12 is not one of 11, 13, 16, 19"),
        (CifarVGG, {"channels": [8] * 15}, r"CifarVGG: expected a list of 16 positive numbers of channels, got \[8"),
        (CifarVGG, {"channels": "wide"}, "expected a list of 16 positive numbers of channels, got 'wide'"),
        (CifarVGG, {"depth": 11, "channels": [8] * 7 + [0]}, r"entry 8 of the channels \(features\.25\) is 0"),
        (CifarVGG, {"channels": [*TABLE_5[:3], *TABLE_5[4:6], "M", *TABLE_5[6:]]}, "expected a list of 16"),
        (CifarVGG, {"channels": [*TABLE_5[:4], "M", *TABLE_5[4:5], *TABLE_5[6:]]}, r"leave the 'M' out, or put them"),
        (PreActResNet, {"depth": 110 + 1}, r"PreActResNet: depth 111 is not 9 n \+ 2"),
        (PreActResNet, {"depth": 2}, "depth 2 is not 9 n"),
        (PreActResNet, {"depth": 20, "channels": [8] * 18}, "PreActResNet: expected a list of 19 positive"),
        (PreActResNet, {"depth": 20, "channels": [8, 8, 0] + [8] * 16}, r"entry 3 of the channels \(features\.stage1\.0\.bn3\) is 0"),
        (PreActResNet, {"depth": 20, "channels": [17] + [8] * 18}, r"features\.stage1\.0\.bn1 reads 17 channels, but there are 16"),
        (PreActResNet, {"depth": 20, "channels": [8] * 18 + [2.0]}, r"entry 19 of the channels \(features\.norm\) is 2\.0"),
        (CifarDenseNet, {"depth": 41}, r"CifarDenseNet: depth 41 is not 3 n \+ 4"),
        (CifarDenseNet, {"growth": 0}, "growth 0 and stem 24: expected at least 1 of each"),
        (CifarDenseNet, {"depth": 10, "channels": [8] * 8}, "CifarDenseNet: expected a list of 9 positive"),
        (CifarDenseNet, {"depth": 10, "channels": [8] * 5 + [-1] + [8] * 3}, r"\(features\.transition2\.norm\) is -1"),
        (CifarDenseNet, {"depth": 10, "channels": [8] * 8 + [97]}, r"features\.norm reads 97 channels, but there are 96"),
        (VGGA, {"channels": [8] * 9 + [0]}, r"VGGA: entry 10 of the channels \(classifier\.3\) is 0"),
    ],
)  # fmt: skip
def test_what_cannot_be(build, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)
