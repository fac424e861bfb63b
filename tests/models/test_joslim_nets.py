"""Joslim's networks: sizes at every published vector, views and copies, and what the published code counts."""

import math

import pytest
import torch
from torch import nn

from anywidth import Elastic
from anywidth.interop.joslim import MODELS, decode, reference_macs, search_dim
from anywidth.models import JoslimCifarResNet, JoslimMobileNetV2, JoslimMobileNetV3, JoslimResNet
from joslim_nets import assert_one_function, images, published
from joslim_tables import COUNTS, KINDS, vector

SMALL = {
    "slim_resnet20": (JoslimCifarResNet, 16),
    "slim_resnet18": (lambda: JoslimResNet(18), 64),
    "slim_resnet50": (JoslimResNet, 64),
    "slim_mobilenetv2": (JoslimMobileNetV2, 64),
    "slim_mobilenetv3_small": (lambda: JoslimMobileNetV3("small"), 64),
    "slim_mobilenetv3_large": (JoslimMobileNetV3, 64),
}


def test_there_are_thirteen():
    assert list(MODELS) == list(COUNTS)
    assert len(MODELS) == 13


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_published_counts(name, kind):
    net, table = published(name), COUNTS[name]
    width = decode(net, vector(kind, search_dim(name)))
    assert reference_macs(net, width) == table[f"macs {kind}"]
    assert net.macs(width) == table[f"macs {kind}"] + table["plain"]
    assert net.params(width) == table[f"params {kind}"]


@pytest.mark.parametrize("name", MODELS)
def test_entries_of_a_vector(name):
    assert search_dim(name) == COUNTS[name]["search_dim"]


@pytest.mark.parametrize("name", ["slim_resnet20", "slim_mobilenetv2"])
def test_another_vector_has_other_counts(name):
    net, shares = published(name), vector("ramp", search_dim(name))
    for entry in range(0, len(shares), 3):
        changed = [0.7 * s if i == entry else s for i, s in enumerate(shares)]
        assert reference_macs(net, decode(net, changed)) < COUNTS[name]["macs ramp"]


@pytest.mark.parametrize("name", ["slim_resnet20", "slim_resnet18", "slim_mobilenetv3_small"])
def test_groups_are_the_entries(name):
    assert len(published(name).space.groups) == COUNTS[name]["search_dim"]


@pytest.mark.parametrize("name", SMALL)
def test_views_copies_and_masked_networks_agree(name):
    build, pixels = SMALL[name]
    net = Elastic(scattered(build()), torch.zeros(1, 3, pixels, pixels, dtype=torch.float64))
    count = search_dim(name)
    for kind in ("0.42", "down", "alt"):
        assert_one_function(net, decode(net, vector(kind, count)), images(4, pixels, pixels))


@torch.no_grad()
def scattered(model: nn.Module) -> nn.Module:
    """In float64, with norms away from their neutral values."""
    random = torch.Generator().manual_seed(0)
    for m in model.double().modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.copy_(torch.rand(m.weight.shape, generator=random) + 0.5)
            m.bias.copy_(torch.randn(m.bias.shape, generator=random) * 0.3)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_stored_parameters_but_for_unused_biases(name):
    with torch.device("meta"):
        model = MODELS[name]()
    unused = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None)
    stored = COUNTS[name]["stored"] - sum(p.numel() for p in model.parameters())
    assert 0 <= stored <= unused
    assert (stored == 0) == ("mobilenet" in name)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: JoslimCifarResNet(21), r"JoslimCifarResNet: depth 21 is not 6 n \+ 2"),
        (lambda: JoslimCifarResNet(2), "depth 2 is not"),
        (lambda: JoslimResNet(20), "JoslimResNet: depth 20 is not one of 18, 34, 50, 101, 152"),
        (
            lambda: JoslimMobileNetV3("tiny"),
            "JoslimMobileNetV3: size 'tiny' is not one of small, large, super",
        ),
    ],
)
def test_what_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "net", [JoslimCifarResNet(20, 5), JoslimResNet(18, 5), JoslimMobileNetV2(5), JoslimMobileNetV3("small", 5)],
    ids=lambda n: type(n).__name__,
)  # fmt: skip
@pytest.mark.parametrize("size", [(32, 32), (75, 50)])
def test_any_image_size(net, size):
    assert net.eval()(torch.rand(1, 3, *size)).shape == (1, 5)


@pytest.mark.parametrize(
    ("build", "fan_in"),
    [
        (JoslimCifarResNet, False),
        (lambda: JoslimResNet(18), False),
        (JoslimMobileNetV2, True),
        (lambda: JoslimMobileNetV3("small"), False),
    ],
)
def test_initialisation(build, fan_in):
    torch.manual_seed(0)
    scores = []
    for m in build().requires_grad_(False).modules():
        if isinstance(m, nn.Conv2d):
            fan = m.weight[0].numel() if fan_in else m.out_channels * math.prod(m.kernel_size)
            scores.append((m.weight.square().mean() * fan / 2 - 1) * math.sqrt(m.weight.numel() / 2))
            assert m.bias is None or not m.bias.any()
        elif isinstance(m, nn.Linear) and not fan_in:
            scores.append((m.weight.square().mean() / 0.01**2 - 1) * math.sqrt(m.weight.numel() / 2))
            assert not m.bias.any()
        elif isinstance(m, nn.BatchNorm2d):
            assert (m.eps, m.momentum) == (1e-5, 0.1)
            assert (m.weight == 1).all()
    assert max(abs(float(score)) for score in scores) < 5  # standard errors of the variance
