"""The ResNets of Joslim, for images of 32 pixels and for ImageNet."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from anywidth.models.blocks import initialise_
from anywidth.models.joslim_blocks import Stage

_CIFAR_PLANES = (16, 32, 64)
_PLANES = (64, 128, 256, 512)
_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(a: int, b: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=False)


class FillUp(nn.Module):
    """The shortcut without weights: every `stride`-th pixel, and zeros for the channels that are missing at the end.

    Source: He et al., arXiv 1512.03385, section 3.3, option A. Channels that are too many are left out, the last first.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """x: (N, C_in, H, W), like: (N, C_out, H/stride, W/stride) -> as `like`."""
        x = x[:, :, :: self.stride, :: self.stride]
        # Padding may be negative, which crops: a narrow stage after a wider one drops the last channels.
        return nn.functional.pad(x, (0, 0, 0, 0, 0, like.shape[1] - x.shape[1]))


class Downsample(nn.Module):
    """The shortcut with weights: a 1x1 convolution with the stride, and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 1, stride)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        return self.bn(self.conv(x))


class JoslimBasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, the first with the stride; the shortcut is added before the last ReLU.

    Args:
        in_channels, hidden, out_channels: before, between and after the two convolutions.
        shortcut: called with the input and with what it is added to; None adds the input.
    """

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, stride: int, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(in_channels, hidden, 3, stride), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
            _conv(hidden, out_channels, 3), nn.BatchNorm2d(out_channels),
        )  # fmt: skip
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        y = self.conv(x)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x, y)))


class JoslimBottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions with batch norm; arguments as of `BasicBlock`."""

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, stride: int, shortcut: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, hidden, 1), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = _conv(hidden, hidden, 3, stride), nn.BatchNorm2d(hidden)
        self.conv3, self.bn3 = _conv(hidden, out_channels, 1), nn.BatchNorm2d(out_channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x, y)))


class Stem(nn.Module):
    """A 7x7 convolution with batch norm and ReLU, and a 3x3 maximum; both halve the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = _conv(3, channels, 7, 2), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> (N, C, H/4, W/4)."""
        return nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 3, 2, 1)


def _stages(depth: int) -> Iterator[Stage]:
    block, expansion = (JoslimBottleneck, 4) if depth in _BOTTLENECK else (JoslimBasicBlock, 1)
    previous = _PLANES[0]
    for planes, count in zip(_PLANES, (_BASIC | _BOTTLENECK)[depth], strict=True):
        # Bottlenecks: the first stage has stride 1, but 64 channels come in and 256 go out, so it needs weights too.
        out, stride = expansion * planes, 1 if planes == _PLANES[0] else 2
        shortcut = None if (previous, stride) == (out, 1) else Downsample(previous, out, stride)
        head = block(previous, planes, out, stride, shortcut)
        yield Stage([head, *(block(out, planes, out, 1, None) for _ in range(count - 1))])
        previous = out


class _Residual(nn.Module):
    """Features, the mean over space, and the classifier: a 1x1 convolution without bias."""

    def __init__(self, features: list[nn.Module], channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(_conv(channels, num_classes, 1))
        initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> logits (N, num_classes)."""
        x = nn.functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x).flatten(1)


class JoslimCifarResNet(_Residual):
    """ResNet for images of 32 pixels: a 1x1 stem with nothing after it, and shortcuts without weights (`FillUp`).

    Keys: `features.0` is the stem, `features.1` to `features.3` the stages with `head.conv`, `tail.0.conv`, ..., and
    `classifier.0` a 4-d weight. The biases that files of the reference code have beside it are not used there.

    Args:
        depth: 6 n + 2 for n blocks in each stage.
        num_classes: number of logits.

    Raises:
        ValueError: another depth.

    Source: the networks published with Joslim, arXiv 2007.11752; He et al., arXiv 1512.03385, section 4.2.
    """

    def __init__(self, depth: int = 20, num_classes: int = 100) -> None:
        blocks = (depth - 2) // 6
        if blocks < 1 or depth != 6 * blocks + 2:
            raise ValueError(
                f"JoslimCifarResNet: depth {depth} is not 6 n + 2 for n blocks a stage, like 20, 32, 56"
            )
        features: list[nn.Module] = [_conv(3, _CIFAR_PLANES[0], 1)]
        previous = _CIFAR_PLANES[0]
        for planes in _CIFAR_PLANES:
            # Depth 20: three blocks in each stage of 16, 32 and 64 channels; the first of stages 2 and 3 has the stride.
            fill = None if planes == previous else FillUp(2)
            head = JoslimBasicBlock(previous, planes, planes, 1 if fill is None else 2, fill)
            tail = [JoslimBasicBlock(planes, planes, planes, 1, None) for _ in range(blocks - 1)]
            features.append(Stage([head, *tail]))
            previous = planes
        super().__init__(features, previous, num_classes)


class JoslimResNet(_Residual):
    """ResNet for ImageNet; the stride of a bottleneck is in its 3x3 convolution.

    Keys: `features.0` (`conv`, `norm`), stages `features.1` to `features.4` with `head`, `tail.0`, ..., and
    `classifier.0`, a 4-d weight. No convolution has a bias; those in files of the reference code are not used there.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: number of logits.

    Raises:
        ValueError: another depth.

    Source: the networks published with Joslim, arXiv 2007.11752; He et al., arXiv 1512.03385, table 1.
    """

    def __init__(self, depth: int = 50, num_classes: int = 1000) -> None:
        if depth not in _BASIC | _BOTTLENECK:
            known = ", ".join(map(str, _BASIC | _BOTTLENECK))
            raise ValueError(f"JoslimResNet: depth {depth} is not one of {known}")
        out_channels = _PLANES[-1] * (4 if depth in _BOTTLENECK else 1)
        super().__init__([Stem(_PLANES[0]), *_stages(depth)], out_channels, num_classes)
