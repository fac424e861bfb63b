"""The search space of Joslim's networks: vectors of shares in the order of the reference code, as widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from anywidth import models
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, WidthError, unknown_name
from anywidth.models.joslim_blocks import ConvNorm, Stage
from anywidth.models.joslim_mobilenet import InvertedBlock, SqueezeExcite
from anywidth.models.joslim_resnet import JoslimBasicBlock, JoslimBottleneck
from anywidth.space.width import Width

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    **{f"slim_resnet{depth}": partial(models.JoslimCifarResNet, depth) for depth in (20, 32, 44, 56)},
    **{f"slim_resnet{depth}": partial(models.JoslimResNet, depth) for depth in (18, 34, 50, 101, 152)},
    "slim_mobilenetv2": models.JoslimMobileNetV2,
    **{f"slim_mobilenetv3_{size}": partial(models.JoslimMobileNetV3, size) for size in ("small", "large", "super")},
}  # fmt: skip

_MOBILE = models.JoslimMobileNetV2 | models.JoslimMobileNetV3
_OURS = models.JoslimCifarResNet | models.JoslimResNet | _MOBILE
_BLOCK_CONVS: Mapping[type[nn.Module], tuple[tuple[str, ...], str]] = {
    JoslimBasicBlock: (("conv.0",), "conv.3"),
    JoslimBottleneck: (("conv1", "conv2"), "conv3"),
    InvertedBlock: (("conv.0",), "conv.7"),
}
"""Kind of block -> its inner convolutions, and that which makes its output."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Convolutions that have as many channels as one entry of a vector says.

    Attributes:
        entry: position in the vector, from 0.
        convolutions: module paths.
        stream: it is the output of a residual stage: never fewer channels than that of the stage before.
    """

    entry: int
    convolutions: tuple[str, ...]
    stream: bool = False


def model_class(model: str) -> Callable[..., nn.Module]:
    """What builds a network of this name.

    Raises:
        CheckpointError: there is none of that name.
    """
    if model not in MODELS:
        raise CheckpointError(unknown_name("model of joslim", model, MODELS))
    return MODELS[model]


def places(model: nn.Module) -> tuple[list[Place], int]:
    """Where the entries of a vector go, in its order, and how many entries it has.

    The first convolution of a ResNet of basic blocks belongs to the stream of its first stage. The first entry of a
    MobileNet is used twice, and so the last is not used.

    Raises:
        WidthError: not a network of Joslim.
    """
    if not isinstance(model, _OURS):
        raise WidthError(
            f"vectors of Joslim are for Joslim's networks, like JoslimCifarResNet; this is a {type(model).__name__}"
        )
    # slim_resnet20: three stages of three basic blocks. Entries 0, 4, 8 are the outputs of the stages, entries 1-3, 5-7
    # and 9-11 the hidden convolutions of their blocks: a vector of 12.
    stages = {f"features.{n}": m for n, m in model.features.named_children() if isinstance(m, Stage)}
    entries = []
    if isinstance(model, _MOBILE):
        entries = [Place(entry=0, convolutions=(path,)) for path in ("features.0.conv", "features.1.conv.3")]
    elif isinstance(stages["features.1"].head, JoslimBottleneck):
        entries = [Place(entry=0, convolutions=("features.0.conv",))]
    entry = 1 if entries else 0
    for path, stage in stages.items():
        hidden_convs, output_conv = _BLOCK_CONVS[type(stage.head)]
        blocks = [f"{path}.head", *(f"{path}.tail.{i}" for i in range(len(stage.tail)))]
        entries.append(Place(entry=entry, convolutions=(f"{path}.head.{output_conv}",), stream=True))
        for block_entry, block in enumerate(blocks, start=entry + 1):
            entries.append(
                Place(entry=block_entry, convolutions=tuple(f"{block}.{conv}" for conv in hidden_convs))
            )
        entry += 1 + len(blocks)
    return entries, entry + isinstance(model, _MOBILE)


def search_dim(model: str) -> int:
    """How many entries a vector of a model has.

    Raises:
        CheckpointError: unknown model.
    """
    with torch.device("meta"):
        return places(model_class(model)())[1]


def decode(net: Elastic, vector: Sequence[float]) -> Width:
    """A vector of the reference code as a width of one of its networks.

    A layer of C channels keeps int(w C) of them, in double precision. The output of a residual stage keeps at least as
    many as that of the stage before. Channels that no entry is for (squeezed ones, the last features) are all kept.

    Args:
        net: made by `new` or `load`, or another elastic network of the same model classes.
        vector: shares in (0, 1], as many as `search_dim` of the model.

    Raises:
        WidthError: another network, a vector that does not fit, or a layer that would keep no channel.

    Source: the code published with Joslim, arXiv 2007.11752.
    """
    entries, count = places(net.model)
    shares = _checked(vector, count, type(net.model).__name__)
    kept: dict[str, int] = {}
    stream_channels = 0
    for slot in entries:
        path = slot.convolutions[0]
        size = _convolution(net.model, path).out_channels
        channels = int(shares[slot.entry] * size)
        # After a stage of 24 channels one that asks for 20 keeps 24: its shortcut would have to drop some.
        if slot.stream:
            channels = stream_channels = max(channels, stream_channels)
        if channels == 0:
            raise WidthError(
                f"entry {slot.entry + 1} of the vector is {shares[slot.entry]}: of {size} channels of {path} none would "
                f"be left; expected at least 1 / {size}"
            )
        kept |= {group: channels for c in slot.convolutions for group in _group(net, c, channels)}
    return net.space.width(kept)


def _convolution(model: nn.Module, path: str) -> nn.Conv2d:
    conv = model.get_submodule(path)
    assert isinstance(conv, nn.Conv2d), path
    return conv


def _checked(vector: Sequence[float], count: int, name: str) -> list[float]:
    shares = [float(w) for w in vector]
    if len(shares) != count:
        raise WidthError(f"a vector of this {name} has {count} entries, got {len(shares)}")
    for position, share in enumerate(shares, start=1):
        if not 0 < share <= 1:
            raise WidthError(f"entry {position} of the vector is {share}, expected a share in (0, 1]")
    return shares


def _group(net: Elastic, path: str, channels: int) -> list[str]:
    """The channel group of a convolution's outputs; none if they are frozen, and all of them are kept."""
    axis = net.space.axis(f"{path}.weight", 0)
    if axis is not None:
        return [net.space.names[axis[0].group]]
    size = _convolution(net.model, path).out_channels
    if channels != size:
        raise WidthError(
            f"{path}: its {size} channels are frozen in this network, the vector gives {channels}"
        )
    return []


def fixed(model: nn.Module) -> list[str]:
    """Modules whose outputs no entry of a vector is for: the last features of a MobileNet, and squeezed channels."""
    if not isinstance(model, _MOBILE):
        return []
    tail = [n for n, m in model.features.named_children() if isinstance(m, ConvNorm)][-1]
    plain = [n for n, m in model.features.named_children() if isinstance(m, nn.Conv2d)]
    squeezed = [f"{path}.fc.0" for path, m in model.named_modules() if isinstance(m, SqueezeExcite)]
    return [*(f"features.{n}" for n in (tail, *plain)), *squeezed]


def reference_macs(net: Elastic, width: Any) -> int:
    """Multiply-adds as the reference code counts them: not those of linear layers and of the convolution with a bias.

    Args:
        net: a network of Joslim.
        width: a width, a label or a multiplier.
    """
    kept = net.width(width)
    plain = {
        path
        for path, m in net.model.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.bias is not None)
    }
    terms = [t for t in net.space.terms if not t.pool and t.module not in plain]
    return sum(math.prod(size.at(kept) for size in t.sizes) for t in terms)
