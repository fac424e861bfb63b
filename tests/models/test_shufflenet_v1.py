"""ShuffleNet v1 equals the same network with true group convolutions, which torch has."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from anywidth.interop.slimmable_networks import new
from anywidth.models import ShuffleNetV1
from anywidth.models.shufflenet_v1 import shuffle_channels
from models_twins import scattered

X = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SMALL = (24, 240, 480, 960)
NARROW = (12, 120, 240, 480)


def grouped(x: Tensor, branches: list[nn.Sequential], groups: int) -> Tensor:
    """One group convolution and one batch norm made of those of the branches."""
    convs, norms = [b[0] for b in branches], [b[1] for b in branches]
    x = F.conv2d(x, torch.cat([c.weight for c in convs]), None, convs[0].stride, convs[0].padding, 1, groups)
    mean, var, weight, bias = (
        torch.cat([getattr(n, name) for n in norms])
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, var, weight, bias)


def branches(module: nn.Module, name: str) -> list[nn.Sequential]:
    return [module.get_submodule(f"{name}_{g}") for g in range(3)]


def expected(net: ShuffleNetV1, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(grouped(x, branches(net, "head"), 1)), 3, 2)
    for number, unit in enumerate(net.features):
        y = F.relu(grouped(x, branches(unit, "a"), 1 if number == 0 else 3))
        y = unit.b[2](unit.b[1](F.channel_shuffle(y, 3)))
        y = grouped(y, branches(unit, "c"), 3)
        strided = number in (0, 4, 12)
        x = torch.cat([F.relu(y), F.avg_pool2d(x, 3, 2, 1)], 1) if strided else F.relu(x + y)
    return net.classifier(x.mean((2, 3)))


@pytest.mark.parametrize("channels", [SMALL, NARROW])
def test_it_is_a_network_of_group_convolutions(channels):
    net = scattered(ShuffleNetV1(channels, num_classes=7)).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(net(X), expected(net, X), rtol=1e-9, atol=1e-9)


def test_shuffle_is_that_of_torch():
    x = torch.arange(24.0).reshape(1, 12, 1, 2)
    assert torch.equal(shuffle_channels(x, 3), F.channel_shuffle(x, 3))
    assert shuffle_channels(x, 3)[0, :, 0, 0].tolist() == [0, 8, 16, 2, 10, 18, 4, 12, 20, 6, 14, 22]


@pytest.mark.parametrize("size", [(224, 7), (64, 2), (80, 3)])
def test_resolution(size):
    pixels, last = size
    net = ShuffleNetV1(SMALL, num_classes=2).eval()
    seen = []
    net.features.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    assert net(torch.zeros(1, 3, pixels, pixels)).shape == (1, 2)
    assert seen == [(960, last, last)]


def compact(wide: ShuffleNetV1, channels: tuple[int, ...]) -> ShuffleNetV1:
    """The network of fewer channels whose every tensor is the leading part of the wide one's."""
    net = ShuffleNetV1(channels, num_classes=wide.classifier[0].out_features).double().eval()
    wider = wide.state_dict()
    net.load_state_dict(
        {n: wider[n][tuple(slice(0, s) for s in t.shape)] for n, t in net.state_dict().items()}
    )
    return net


@pytest.mark.parametrize(("label", "channels"), [(0.5, NARROW), (1.0, SMALL)])
def test_the_published_narrow_network_is_the_compact_one_of_leading_slices(label, channels):
    net = new("s_shufflenet", image_size=64)
    scattered(net.model)
    small, view = compact(net.model, channels), net.double().train().at(label)
    with torch.no_grad():
        for name, module in view.named_modules():  # switchable norms are no slices
            if isinstance(module, nn.BatchNorm2d):
                module.load_state_dict(small.get_submodule(name).state_dict())
                module.num_batches_tracked.fill_(1)
        torch.testing.assert_close(net.eval().at(label)(X), small(X), rtol=1e-9, atol=1e-9)


def test_a_traced_narrow_network_has_the_shapes_of_the_published_one():
    """Its channels follow their routes instead; `tests/test_recipes.py` compares the costs."""
    net = Elastic(ShuffleNetV1(SMALL, num_classes=7), X[:1].float(), widths=[0.5, 1.0])
    assert len(net.space.groups) > 1
    shapes = [
        {n: t.shape for n, t in m.state_dict().items()} for m in (net.extract(0.5), ShuffleNetV1(NARROW, 7))
    ]
    assert shapes[0] == shapes[1]


def test_channels_that_cannot_be():
    with pytest.raises(ValueError, match="ShuffleNetV1: expected a list of 4 positive numbers"):
        ShuffleNetV1(channels=(24, 240))
