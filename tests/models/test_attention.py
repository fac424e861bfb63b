import pytest
import torch
import torchvision
from torch import nn

from anywidth import Elastic
from anywidth.models import ResNet
from anywidth.models.attention import ChannelAttention, squeezed
from oracles import rand, randomized


@pytest.mark.parametrize(
    ("channels", "hidden"), [(24, 6), (88, 22), (168, 42), (264, 66), (640, 160), (1152, 288), (1, 1), (10, 3), (9, 3)]
)  # fmt: skip
def test_hidden_channels(channels, hidden):
    assert squeezed(channels) == hidden
    assert ChannelAttention(channels).expand.in_channels == hidden


def test_a_rounding_never_loses_more_than_a_tenth():
    assert all(squeezed(c) >= 0.9 * 0.25 * c for c in range(1, 400))


def test_sigmoid_attention_is_that_of_torchvision():
    ours = randomized(ChannelAttention(12, 4))
    theirs = torchvision.ops.SqueezeExcitation(12, 4).double()
    names = {"fc1": "squeeze.reduce", "fc2": "expand"}
    own = ours.state_dict()
    theirs.load_state_dict({n: own[n.replace(n[:3], names[n[:3]])] for n in theirs.state_dict()})
    x = rand(2, 12, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_tanh_attention():
    ours, x = randomized(ChannelAttention(6, 3, gate="tanh")), rand(2, 6, 4, 4)
    reduce, expand = ours.squeeze.reduce, ours.expand
    hidden = (x.mean((2, 3)) @ reduce.weight.flatten(1).T + reduce.bias).relu()
    scale = 1 + torch.tanh(hidden @ expand.weight.flatten(1).T + expand.bias)
    torch.testing.assert_close(ours(x), x * scale[:, :, None, None], rtol=1e-12, atol=1e-12)
    assert ours.squeeze(x).shape == (2, 3, 1, 1)


def with_attention(model: nn.Module) -> nn.Module:
    """1 + tanh attention after each residual block."""
    for name, block in list(model.features.named_children())[1:3]:
        out = [m.num_features for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1]
        setattr(model.features, name, nn.Sequential(block, ChannelAttention(out, gate="tanh")))
    return model


def test_tanh_attention_leaves_a_trained_network_as_it_was():
    x, model = torch.randn(2, 3, 32, 32), ResNet(num_classes=5).eval()
    before = model(x)
    assert torch.equal(with_attention(model)(x), before)
    net = Elastic(model, torch.zeros(1, 3, 32, 32), freeze=["*.squeeze.reduce"])
    assert not net.space.unknown
    narrow = net.extract(0.5)
    attention = next(m for m in narrow.modules() if isinstance(m, ChannelAttention))
    assert attention.expand.weight.shape == (128, 64, 1, 1)
    assert narrow(x).shape == (2, 5)


def test_tanh_attention_learns_from_the_start():
    torch.manual_seed(0)
    attention = ChannelAttention(8, gate="tanh")
    (attention(torch.randn(2, 8, 4, 4)) ** 2).sum().backward()
    assert attention.expand.weight.grad.any()
