import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anywidth.models.joslim_blocks import ConvNorm, Stage


@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, 7), (3, 1, 7), (3, 2, 4), (5, 2, 4)])
def test_a_convolution_keeps_the_size_up_to_its_stride(kernel, stride, size):
    layer, x = ConvNorm(3, 4, kernel, stride).eval(), torch.randn(2, 3, 7, 7)
    assert layer.conv.bias is None
    assert layer(x).shape == (2, 4, size, size)
    expected = (
        F.conv2d(x, layer.conv.weight, stride=stride, padding=kernel // 2) / (1 + layer.norm.eps) ** 0.5
    )
    torch.testing.assert_close(layer(x), expected)


def test_the_activation_comes_last():
    layer, x = ConvNorm(3, 4, 1, act=nn.ReLU()), torch.randn(8, 3, 2, 2)
    torch.testing.assert_close(layer(x), layer.norm(layer.conv(x)).relu())
    assert (layer(x) == 0).any()


def test_a_stage_runs_its_head_and_then_its_tail():
    blocks = [nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)]
    stage, x = Stage(blocks), torch.randn(2, 3)
    assert stage.head is blocks[0]
    assert list(stage.tail) == blocks[1:]
    torch.testing.assert_close(stage(x), blocks[2](blocks[1](blocks[0](x))))
    assert torch.equal(Stage(blocks[:1])(x), blocks[0](x))
