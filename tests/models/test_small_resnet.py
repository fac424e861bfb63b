import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchvisionBlock

from anywidth.models import SmallResNet


def torchvision_twin(block: nn.Module) -> nn.Module:
    """The same block, computed by torchvision's code."""
    plain = isinstance(block.shortcut, nn.Identity)
    twin = TorchvisionBlock(
        block.conv1.in_channels,
        block.conv1.out_channels,
        block.conv1.stride[0],
        None if plain else nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)),
    )
    if not plain:
        twin.downsample = block.shortcut
    state = {key.replace("shortcut", "downsample"): value for key, value in block.state_dict().items()}
    twin.load_state_dict(state)
    return twin


@pytest.mark.parametrize("blocks", [1, 2])
def test_equals_a_network_of_torchvision_blocks(blocks):
    torch.manual_seed(0)
    net = SmallResNet(in_channels=3, num_classes=7, channels=(4, 6, 10), blocks=blocks).double().train()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    expected = torch.relu(net.bn(net.conv(x)))
    for stage in net.stages:
        for block in stage:
            expected = torchvision_twin(block).double()(expected)
    expected = net.fc(nn.AdaptiveAvgPool2d(1)(expected).flatten(1))
    torch.testing.assert_close(net(x), expected)
    assert expected.shape == (5, 7)


def test_resolution_halves_at_every_stage_but_the_first():
    net = SmallResNet(channels=(4, 4, 4)).eval()
    sizes = []
    for stage in net.stages:
        stage.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    net(torch.zeros(1, 1, 8, 8))
    assert sizes == [(8, 8), (4, 4), (2, 2)]
