"""DS-MBNet: one function at every width, what its channels touch, small networks, and channel attention."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anywidth import Elastic
from anywidth.interop import dsnet
from anywidth.models import DSMBNet
from anywidth.models.attention import ChannelAttention
from anywidth.models.ds_mbnet import BLOCKS, CANDIDATES, CHANNELS, sub_networks
from oracles import masked, rand, randomized

TABLES = ((4, 8), (8, 12), (12, 16), (16, 24), (16, 24, 32), (24, 36, 48))
SMALL = {"blocks": (1, 1, 2, 2, 1), "strides": (1, 1, 2, 2, 2), "stem_stride": 1}


def small(gate: str = "sigmoid", seed: int = 0) -> Elastic:
    """Of three sub-networks for images of 32 pixels, in float64 and evaluation."""
    torch.manual_seed(seed)
    model = randomized(DSMBNet(5, channels=[t[-1] for t in TABLES], gate=gate, **SMALL)).float()
    return dsnet.elastic(model, 32, candidates=TABLES).double().eval()


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("gate", ["sigmoid", "tanh"])
@pytest.mark.parametrize("label", [0, 1, 2, "largest"])
def test_views_copies_and_masked_networks_agree(label, gate):
    net, x = small(gate).train(), rand(4, 3, 32, 32)
    net.model.dropout.eval()
    with torch.no_grad():
        expected = masked(net, net.width(label))(x)
        for network in (net.at(label), net.extract(label)):
            assert relative(network(x), expected) < 1e-10


def test_the_published_network_at_published_widths():
    net, x = dsnet.new(num_classes=5, image_size=64).double().train(), rand(2, 3, 64, 64)
    randomized(net.model)
    net.model.dropout.eval()
    for label in (0, 7, "largest"):
        with torch.no_grad():
            expected = masked(net, net.width(label))(x)
            for network in (net.at(label), net.extract(label)):
                assert relative(network(x), expected) < 1e-10


def test_channels_beyond_a_width_never_change_its_output():
    net, x = small(), rand(2, 3, 32, 32)
    net.calibrate([x], batches=1)
    before = {label: net.at(label)(x).detach() for label in (0, 1, 2)}
    width = net.width(1)
    with torch.no_grad():
        inside = masked(net, width).state_dict()
        for name, p in net.model.named_parameters():
            p.copy_(torch.where(inside[name] == 0, torch.full_like(p, 9.0), p))
    after = {label: net.at(label)(x).detach() for label in (0, 1, 2)}
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert relative(after[2], before[2]) > 1e-3


def test_hidden_units_of_attentions_are_never_cut():
    net = small()
    for wide, view in zip(net.model.modules(), net.at(0).modules(), strict=True):
        if isinstance(view, ChannelAttention):
            assert view.expand.in_channels == view.squeeze.reduce.out_channels == wide.expand.in_channels
            assert view.expand.out_channels == view.squeeze.reduce.in_channels
            assert view.expand.out_channels < wide.expand.out_channels


@pytest.mark.parametrize("gate", ["sigmoid", "tanh"])
def test_a_small_network_trains_and_narrows(gate):
    torch.manual_seed(0)
    options = SMALL | {"gate": gate}
    net = dsnet.new(num_classes=10, image_size=32, candidates=TABLES, model_options=options)
    x, y = torch.randn(8, 3, 32, 32), torch.arange(8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        step = [F.cross_entropy(net.at(label)(x), y) for label in ("largest", 1, "smallest")]
        for loss in step:
            loss.backward()
        optimizer.step()
        losses.append(float(sum(step).detach()))
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    assert net.eval().at(0)(x).shape == (8, 10)
    assert net.params(0) < net.params(1) < net.params(2) < net.params("largest")
    assert net.extract(0).stages[3][1].pointwise.conv.weight.shape == (16, 16, 1, 1)


def test_what_the_widest_network_is():
    model = DSMBNet()
    assert sum(p.numel() for p in model.parameters()) == 7_675_940
    assert CHANNELS == (24, 88, 168, 264, 640, 1152)
    assert [len(stage) for stage in model.stages] == list(BLOCKS)
    hidden = [m.expand.in_channels for m in model.modules() if isinstance(m, ChannelAttention)]
    assert hidden == [6, 22, 42, 42, 66, 66, 160, 160, 160, 160, 160, 160, 288]
    assert not any(isinstance(m, nn.ReLU6) for m in model.modules())
    assert model.dropout.p == 0.2


def test_sub_networks():
    found = sub_networks()
    assert found[0] == found["smallest"] == (16, 32, 48, 96, 224, 736)
    assert found[5] == (16, 32, 48, 96, 384, 896)
    assert found["largest"] == CHANNELS
    assert [found[k][4] / 640 for k in range(14)] == pytest.approx([0.35 + 0.05 * k for k in range(14)])
    assert len(found) == 16
    assert sub_networks(((8,), (4, 6))) == {0: (8, 4), 1: (8, 6), "smallest": (8, 4), "largest": (8, 6)}
    assert CANDIDATES[4][1] - CANDIDATES[4][0] == 32


@pytest.mark.parametrize("size", [(32, 32), (96, 64), (75, 50)])
def test_any_image_size(size):
    assert DSMBNet(5).eval()(torch.zeros(1, 3, *size)).shape == (1, 5)


def test_initialisation():
    torch.manual_seed(0)
    model = DSMBNet().requires_grad_(False)
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            fan = m.out_channels * math.prod(m.kernel_size) // m.groups
            error = (m.weight.square().mean() * fan / 2 - 1) * math.sqrt(m.weight.numel() / 2)
            assert abs(float(error)) < 5
            assert m.bias is None or not m.bias.any()
    limit = 1 / math.sqrt(1000)
    assert 0.99 * limit < float(model.classifier.weight.abs().max()) <= limit
    assert not model.classifier.bias.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": [8] * 5}, "DSMBNet: expected a list of 6 positive numbers of channels"),
        ({"blocks": (1, 0, 1, 1, 1)}, r"DSMBNet, blocks: expected .* got \(1, 0, 1, 1, 1\)"),
        ({"strides": (1, 2)}, r"DSMBNet, strides: expected a list of 5 .* got \(1, 2\)"),
        ({"blocks": ()}, "DSMBNet, blocks: expected"),
        ({"gate": "relu"}, "ChannelAttention: gate 'relu' is not one of 'sigmoid', 'tanh'"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        DSMBNet(5, **options)


def test_a_new_network_with_tanh_attention_starts_with_the_identity():
    assert not any(
        m.expand.weight.any() for m in DSMBNet(5, gate="tanh").modules() if isinstance(m, ChannelAttention)
    )
