"""The classes that torch's layers of one kind share, and what these keep beside their weights.

Listing the public classes (`nn.BatchNorm1d`, `nn.BatchNorm2d`, ...) would leave out lazy and synchronised ones, and those
that other packages derive from the private base.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

BatchNorm = _BatchNorm
"""Batch norms of any number of dimensions, synchronised ones too."""
FeatureNorm = _NormBase
"""Norms with statistics, which state their size in `num_features`: batch norms and instance norms."""
Convolution = _ConvNd
"""Convolutions of any number of dimensions, transposed ones too."""
TransposedConvolution = _ConvTransposeNd
"""Transposed convolutions of any number of dimensions."""
DropoutLayer = _DropoutNd
"""Dropout of elements and of channels, and of any number of dimensions."""

FLAT_WEIGHTS = ("_flat_weights", "_flat_weight_refs")
"""Attributes in which `nn.RNNBase` lists its parameters a second time, and which it sets again where they changed."""


def convolve(layer: _ConvNd, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The output of a convolution with another weight and bias, padded as the layer says.

    `nn.functional.conv2d` knows no padding but zeros; the other modes are in this method alone.
    """
    return layer._conv_forward(inputs, weight, bias)  # pyright: ignore[reportCallIssue]
