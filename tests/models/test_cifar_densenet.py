import torch
from torch.nn import functional as F

from anywidth.models import CifarDenseNet
from anywidth.models.cifar_densenet import DenseLayer, Transition, flat_channels, places


def test_norms_read_all_maps_before_them():
    assert flat_channels(2, 12, 24) == [24, 36, 48, 48, 60, 72, 72, 84, 96]
    assert len(places(2)) == 9
    assert places(2)[2:6] == [
        "features.transition1.norm", "features.block2.0.norm", "features.block2.1.norm", "features.transition2.norm"
    ]  # fmt: skip
    assert places(2)[-1] == "features.norm"


def test_a_layer_puts_its_maps_behind_the_input():
    layer, x = DenseLayer(torch.nn.BatchNorm2d(5), 3).eval(), torch.randn(2, 5, 4, 4)
    grown = layer(x)
    assert grown.shape == (2, 8, 4, 4)
    assert torch.equal(grown[:, :5], x)
    torch.testing.assert_close(grown[:, 5:], F.conv2d(layer.norm(x).relu(), layer.conv.weight, padding=1))


def test_a_transition_halves_the_resolution():
    transition, x = Transition(torch.nn.BatchNorm2d(5), 3).eval(), torch.randn(2, 5, 4, 4)
    mixed = torch.einsum("oi,bihw->bohw", transition.conv.weight[:, :, 0, 0], transition.norm(x).relu())
    torch.testing.assert_close(transition(x), F.avg_pool2d(mixed, 2))


def test_the_network_is_its_layers_one_after_the_other():
    net = CifarDenseNet(10, growth=3, stem=4, num_classes=5).eval()
    x = torch.randn(2, 3, 16, 16)
    y = net.features.stem(x)
    for block in (net.features.block1, net.features.transition1, net.features.block2, net.features.transition2, net.features.block3):  # fmt: skip
        y = block(y)
    assert y.shape == (2, 22, 4, 4)  # 4 + 6 layers of 3
    y = net.features.norm(y).relu().mean((2, 3))
    torch.testing.assert_close(net(x), net.classifier(y))
