"""MobileNet v1."""

from collections.abc import Sequence

from torch import nn

from anywidth.models.blocks import Classifier, SeparableConv, check_channels, conv_norm, initialise_

CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


class MobileNetV1(Classifier):
    """Thirteen depthwise separable convolutions.

    Args:
        channels: of the first convolution and of each block, 14 numbers.
        num_classes: number of logits.

    Source: Howard et al., arXiv 1704.04861, table 1; ReLU6 as in arXiv 1812.08928.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, num_classes: int = 1000) -> None:
        super().__init__()
        c = check_channels("MobileNetV1", channels, 1 + len(STRIDES))
        blocks = (SeparableConv(a, b, s) for a, b, s in zip(c[:-1], c[1:], STRIDES, strict=True))
        self.features = nn.Sequential(nn.Sequential(*conv_norm(3, c[0], 3, 2)), *blocks)
        self.classifier = nn.Sequential(nn.Linear(c[-1], num_classes))
        initialise_(self)
