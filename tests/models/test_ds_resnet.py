"""DS-ResNet: torchvision's function and weights at first, widths by stages, and small networks."""

import pytest
import torch
import torchvision
from torch import nn

from anywidth import Elastic
from anywidth.models import DSResNet
from anywidth.models.attention import ChannelAttention
from anywidth.space.joined_groups import joined
from anywidth.views.trial_runs import probed_space
from oracles import masked, rand, randomized

FREEZE = ["*.attention.squeeze.reduce"]
SMALL = {"channels": (8, 8, 12, 16), "blocks": (2, 1, 2), "small": True}
MIDDLES = {f"layer{s}.middle": f"layer{s}.*.conv[12]" for s in (1, 2, 3)}


def attentions(model: nn.Module) -> dict[str, ChannelAttention]:
    return {n: m for n, m in model.named_modules() if isinstance(m, ChannelAttention)}


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_with_weights_of_torchvision_it_computes_what_theirs_does(mode):
    torch.manual_seed(0)
    theirs = randomized(torchvision.models.resnet50(num_classes=7)).double()
    ours = DSResNet(50, num_classes=7).double()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert {name.rsplit(".attention", 1)[0] for name in missing} == {f"layer{s}.0" for s in (1, 2, 3, 4)}
    assert all(".0.attention." in name for name in missing)
    x = rand(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = getattr(ours, mode)()(x), getattr(theirs, mode)()(x)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        ours.layer2[0].attention.expand.bias.normal_()
        assert (ours(x) - theirs(x)).abs().max() > 1e-6


@pytest.mark.parametrize("depth", [101, 152])
def test_other_depths_have_the_tensors_of_torchvision(depth):
    with torch.device("meta"):
        ours, theirs = DSResNet(depth), getattr(torchvision.models, f"resnet{depth}")()
    shapes = {n: t.shape for n, t in ours.state_dict().items() if ".attention." not in n}
    assert list(shapes.items()) == [(n, t.shape) for n, t in theirs.state_dict().items()]


def test_the_groups_of_a_stage_are_those_that_its_description_names():
    model = DSResNet(50)
    space = probed_space(model, torch.zeros(1, 3, 64, 64), FREEZE)
    names = {"conv1"}
    for stage, count in enumerate((3, 4, 6, 3), 1):
        names |= {f"layer{stage}.{block}.conv{k}" for block in range(count) for k in (1, 2)}
        names |= {f"layer{stage}.0.conv3"}
    assert set(space.names) == names
    assert [space.groups[space.names.index(f"layer{s}.0.conv3")].size for s in (1, 4)] == [256, 2048]
    assert [m.expand.in_channels for m in attentions(model).values()] == [16, 32, 64, 128]


@pytest.fixture(scope="module")
def net() -> Elastic:
    """One number for each stage and one for its stream, in float64; attentions that do something."""
    torch.manual_seed(0)
    model, x = randomized(DSResNet(num_classes=5, **SMALL)).double(), rand(1, 3, 16, 16)
    space = joined(probed_space(model, x, FREEZE), MIDDLES)
    widths = {
        0: {"layer2.middle": 0.5, "layer3.*": 0.25},
        1: {"layer1.middle": 3, "layer?.0.conv3": 0.5},
        "largest": 1.0,
    }
    return Elastic(model, x, widths=widths, freeze=FREEZE, space=space).train()


@pytest.mark.parametrize("label", [0, 1, "largest"])
def test_widths_by_stages(net, label):
    x = rand(4, 3, 16, 16)
    with torch.no_grad():
        expected = masked(net, net.width(label))(x)
        for network in (net.at(label), net.extract(label)):
            torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
    if label == 0:
        assert [net.at(0).layer2[0].conv2.out_channels, net.at(0).layer3[1].conv1.out_channels] == [6, 4]


def test_a_small_network_keeps_the_size_of_small_images():
    model = DSResNet(num_classes=5, **SMALL).eval()
    sizes = []
    for name in model.stages:
        model.get_submodule(name).register_forward_hook(lambda m, i, o: sizes.append(tuple(o.shape[1:])))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    assert sizes == [(32, 32, 32), (48, 16, 16), (64, 8, 8)]
    assert list(attentions(model)) == [f"layer{s}.0.attention" for s in (1, 2, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18}, "DSResNet: depth 18 is not one of 50, 101, 152"),
        ({"channels": (8, 8)}, "DSResNet: expected a list of 5 positive numbers"),
        ({"blocks": ()}, "DSResNet, blocks: expected"),
        ({"blocks": (1, 0), "channels": (8, 8, 8)}, "DSResNet, blocks: expected a list of 2"),
    ],
)
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        DSResNet(**options)
