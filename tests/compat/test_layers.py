import pytest
import torch
from torch import nn

from anywidth.compat.layers import (
    FLAT_WEIGHTS,
    BatchNorm,
    Convolution,
    DropoutLayer,
    FeatureNorm,
    TransposedConvolution,
    convolve,
)


@pytest.mark.parametrize(
    ("base", "layers", "others"),
    [
        (
            BatchNorm,
            [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LazyBatchNorm2d],
            [nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm],
        ),
        (FeatureNorm, [nn.BatchNorm2d, nn.InstanceNorm1d, nn.InstanceNorm2d], [nn.GroupNorm, nn.LayerNorm]),
        (Convolution, [nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.LazyConv2d], [nn.Linear]),
        (
            TransposedConvolution,
            [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d],
            [nn.Conv2d],
        ),
        (
            DropoutLayer,
            [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout],
            [nn.Identity],
        ),
    ],
    ids=["BatchNorm", "FeatureNorm", "Convolution", "TransposedConvolution", "DropoutLayer"],
)
def test_layers_of_a_kind_share_a_class(base, layers, others):
    assert all(issubclass(layer, base) for layer in layers)
    assert not any(issubclass(layer, base) for layer in others)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_another_weight_is_padded_as_the_layer_says(mode, bias):
    layer = nn.Conv2d(2, 4, 3, padding=1, stride=2, padding_mode=mode)
    other = nn.Conv2d(2, 4, 3, padding=1, stride=2, padding_mode=mode, bias=bias)
    x = torch.rand(1, 2, 6, 6)
    assert torch.equal(convolve(layer, x, other.weight, other.bias), other(x))


def test_recurrent_layers_list_their_weights_twice():
    lstm = nn.LSTM(2, 3)
    assert all(name in vars(lstm) for name in FLAT_WEIGHTS)
    weights, references = (vars(lstm)[name] for name in FLAT_WEIGHTS)
    assert weights[0] is references[0]() is lstm.weight_ih_l0
    lstm.weight_ih_l0 = nn.Parameter(torch.rand(12, 2))
    assert weights[0] is lstm.weight_ih_l0
