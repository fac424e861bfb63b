"""Pre-activation bottleneck ResNet for images of 32 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anywidth.channel_select import handed_on
from anywidth.models.blocks import Classifier, check_places, initialise_, stream_norm

PLANES = (16, 32, 64)
_STEM = 16


def flat_channels(blocks: int) -> list[int]:
    """What the three norms of every block read, then what the last norm reads.

    Args:
        blocks: of each of the three stages.
    """
    # One block per stage: [16, 16, 16, 64, 32, 32, 128, 64, 64, 256].
    channels, stream = [], _STEM
    for planes in PLANES:
        for _ in range(blocks):
            channels += [stream, planes, planes]
            stream = 4 * planes
    return [*channels, stream]


def places(blocks: int) -> list[str]:
    """The norms, in the order of `flat_channels`."""
    paths = [f"features.stage{s}.{b}.bn{i}" for s in (1, 2, 3) for b in range(blocks) for i in (1, 2, 3)]
    return [*paths, "features.norm"]


class PreActBottleneck(nn.Module):
    """Batch norm, ReLU and convolution three times (1x1, 3x3 with the stride, 1x1), added to the input.

    Args:
        in_channels: of the residual stream.
        norm: the first batch norm; it may read a part of the stream.
        middle: what the 3x3 convolution reads and makes.
        out_channels: of the residual stream after the block.
        project: the input passes a 1x1 convolution with the stride, without a norm, before the sum.
    """

    def __init__(
        self,
        in_channels: int,
        norm: nn.BatchNorm2d,
        middle: tuple[int, int],
        out_channels: int,
        *,
        stride: int,
        project: bool,
    ) -> None:
        super().__init__()
        a, b = middle
        self.bn1 = norm
        self.conv1 = nn.Conv2d(handed_on(norm), a, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(b)
        self.conv3 = nn.Conv2d(b, out_channels, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""
        # x (N, C_in, H, W) -> (N, a, H, W) -> (N, b, H/s, W/s) -> (N, C_out, H/s, W/s); no ReLU after the sum, as the next
        # block begins with one.
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        y = self.conv3(torch.relu(self.bn3(y)))
        return self.shortcut(x) + y


class PreActResNet(Classifier):
    """Pre-activation ResNet of three stages of bottlenecks, whose residual stream has 64, 128 and 256 channels.

    Keys: `features.stem`, `features.stage1.0` (`bn1`, `conv1`, ..., `conv3`, `shortcut`) and so on, `features.norm`,
    `classifier`; norms that read a part of the stream also have `index` (`anywidth.channel_select`).

    Args:
        depth: 9 n + 2 for n blocks in each stage.
        num_classes: number of logits.
        channels: how many channels each norm reads: three numbers for every block, then one for the last norm (9 n + 1).
            The first norm of a block and the last norm read the stream; fewer than it has select the first.

    Raises:
        ValueError: another depth, or channels that do not fit it.

    Source: He et al., arXiv 1603.05027, section 4 and appendix (the CIFAR variant), as slimmed in arXiv 1708.06519:
    the first block of every stage has a convolution in its shortcut; scale of batch norms 0.5 at the start.
    """

    def __init__(
        self, depth: int = 164, num_classes: int = 10, channels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 9
        if blocks < 1 or depth != 9 * blocks + 2:
            raise ValueError(
                f"PreActResNet: depth {depth} is not 9 n + 2 for n blocks a stage, like 20, 56, 164"
            )
        names = places(blocks)
        default = flat_channels(blocks)
        flat = default if channels is None else check_places("PreActResNet", channels, names)
        stages: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(3, _STEM, 3, padding=1, bias=False))
        stream, offset = _STEM, 0
        for stage, planes in enumerate(PLANES, start=1):
            stage_blocks = []
            for block in range(blocks):
                # flat[offset : offset + 3] = (64, 32, 32): bn1 reads 64 channels of the stream, conv1 makes 32, conv2 makes 32;
                # conv3 always makes the whole stream, as the addition needs.
                stream_kept, a, b = flat[offset : offset + 3]
                norm = stream_norm("PreActResNet", names[offset], stream, stream_kept)
                stride = 2 if stage > 1 and block == 0 else 1
                stage_blocks.append(
                    PreActBottleneck(stream, norm, (a, b), 4 * planes, stride=stride, project=block == 0)
                )
                stream, offset = 4 * planes, offset + 3
            stages[f"stage{stage}"] = nn.Sequential(*stage_blocks)
        stages["norm"] = stream_norm("PreActResNet", names[-1], stream, flat[-1])
        stages["relu"] = nn.ReLU(inplace=True)
        self.features = nn.Sequential(stages)
        self.classifier = nn.Linear(flat[-1], num_classes)
        initialise_(self, scale=0.5, linear=None)
