import pytest
import torch
import torchvision
from torch import nn

from anywidth.models import ResNet
from models_twins import assert_twins

X = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("depth", [50, 101])
def test_it_is_that_of_torchvision(depth):
    theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    assert_twins(ResNet(depth, num_classes=7), theirs, X)


def test_depth_152_has_the_tensors_of_torchvision():
    with torch.device("meta"):
        ours, theirs = ResNet(152), torchvision.models.resnet152()
    assert [t.shape for t in ours.state_dict().values()] == [t.shape for t in theirs.state_dict().values()]


def test_every_convolution_may_have_its_own_channels():
    channels, made, middle = [5], [5], 10
    for out, blocks in zip((6, 7, 8, 9), (3, 4, 6, 3), strict=True):
        channels.append(out)  # said once for the stage, and again in every block
        for _ in range(blocks):
            channels += (block := [middle, middle + 1, out])
            made += block
            middle += 2
    net = ResNet(50, channels=channels, num_classes=3).eval()
    convs = [m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n]
    assert [m.out_channels for m in convs] == made
    assert net(X.float()).shape == (2, 3)


def test_shortcuts_are_where_the_shape_changes():
    net = ResNet(50)
    with_conv = [b for b in range(1, 17) if not isinstance(net.features[b].shortcut, nn.Identity)]
    assert with_conv == [1, 4, 8, 14]


def test_what_cannot_be():
    with pytest.raises(ValueError, match="depth 34 is not one of 50, 101, 152"):
        ResNet(34)
    with pytest.raises(ValueError, match="ResNet: expected a list of 53 positive"):
        ResNet(50, channels=[8, 8])
