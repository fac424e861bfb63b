"""The ten published models of the Slimmable Networks family as elastic networks with exact channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from anywidth import models
from anywidth.elastic import Elastic
from anywidth.errors import WidthError, unknown_name
from anywidth.interop.autoslim_lists import LISTS
from anywidth.models.inverted import MOBILENET_V2
from anywidth.models.mobilenet_v1 import CHANNELS
from anywidth.models.resnet import BASES, BLOCKS
from anywidth.norms.bank import NormPolicy
from anywidth.space.tied_groups import tied
from anywidth.space.width import Width
from anywidth.tracing.groups import channel_space

_SHUFFLE_UNITS = 8
TAIL = "features.18"


def _range(low: float, steps: int) -> tuple[float, ...]:
    return tuple(round(low + 0.025 * i, 3) for i in range(steps))


@dataclass(frozen=True, kw_only=True)
class Published:
    """One of the ten models.

    Attributes:
        build: its class in `anywidth.models`.
        norm: "switchable": a batch norm for each width; "shared": statistics for each width.
        widths: labels of the published widths -> ratio, the narrowest first; empty for AutoSlim's lists.
        convolutions: modules whose output channels a flat list gives, with None for what it says twice.
        divisor: rounding of channels, 0 for none; hidden channels of inverted residuals take `expansion` times it.
        shared_tail: the last batch norm is one for all widths.
    """

    build: type[nn.Module]
    norm: NormPolicy
    widths: Mapping[float, float] = field(default_factory=dict)
    convolutions: tuple[str | None, ...] = ()
    divisor: int = 0
    expansion: int = 1
    shared_tail: bool = False


def _mobile_v1() -> tuple[str, ...]:
    return ("features.0.0", *(f"features.{b}.body.3" for b in range(1, 14)))


def _inverted() -> tuple[str, ...]:
    # Blocks 2 to 17: the expansion at index 0 and the projection at index 6.
    pairs = (f"features.{b}.body.{i}" for b in range(2, 18) for i in (0, 6))
    return ("features.0.0", "features.1.body.3", *pairs, "features.18.0")


def _resnet() -> tuple[str | None, ...]:
    # A list names the output of a stage twice: before its blocks and in each of them. [64, 256, 64, 64, 256, ...]
    # is the stem, the stage, and the three convolutions of its first block; None skips the second entry.
    paths: list[str | None] = ["features.0.0"]
    block = 1
    for count in (3, 4, 6, 3):
        paths.append(None)
        paths += [f"features.{b}.body.{i}" for b in range(block, block + count) for i in (0, 3, 6)]
        block += count
    return tuple(paths)


def _same(*ratios: float) -> dict[float, float]:
    return {ratio: ratio for ratio in ratios}


_SHUFFLE = (24, 240, 480, 960)
_CONVOLUTIONS: dict[type[nn.Module], tuple[str | None, ...]] = {
    models.MobileNetV1: _mobile_v1(),
    models.MobileNetV2: _inverted(),
    models.MNASNet: _inverted(),
    models.ResNet: _resnet(),
}
_QUARTERS = _same(0.25, 0.5, 0.75, 1.0)
_V2: dict[str, Any] = {"build": models.MobileNetV2, "divisor": 8, "expansion": 6, "shared_tail": True}
MODELS: dict[str, Published] = {
    "s_mobilenet_v1": Published(build=models.MobileNetV1, norm="switchable", widths=_QUARTERS, divisor=8),
    "s_mobilenet_v2": Published(norm="switchable", widths=_same(0.35, 0.5, 0.75, 1.0), **_V2),
    "s_resnet50": Published(build=models.ResNet, norm="switchable", widths=_QUARTERS),
    "s_shufflenet": Published(
        build=models.ShuffleNetV1, norm="switchable", widths={0.5: 0.25, 1.0: 0.5, 2.0: 1.0}
    ),
    "us_mobilenet_v1": Published(
        build=models.MobileNetV1, norm="shared", widths=_same(*_range(0.25, 31)), divisor=8
    ),
    "us_mobilenet_v2": Published(norm="shared", widths=_same(*_range(0.35, 27)), **_V2),
    "autoslim_mobilenet_v1": Published(
        build=models.MobileNetV1, norm="switchable", convolutions=_mobile_v1()
    ),
    "autoslim_mobilenet_v2": Published(build=models.MobileNetV2, norm="switchable", convolutions=_inverted()),
    "autoslim_mnasnet": Published(build=models.MNASNet, norm="switchable", convolutions=_inverted()),
    "autoslim_resnet50": Published(build=models.ResNet, norm="switchable", convolutions=_resnet()),
}


def published(model: str) -> Published:
    """A model by its name.

    Raises:
        WidthError: there is none of that name.
    """
    if model not in MODELS:
        raise WidthError(unknown_name("model of slimmable_networks", model, MODELS))
    return MODELS[model]


def new(model: str, widths: Sequence[Any] | None = None, *, image_size: int = 224) -> Elastic:
    """A published model as an elastic network with fresh weights, its channel numbers exact at every width.

    Args:
        model: a key of `MODELS`.
        widths: ratios of the published model, or AutoSlim's flat channel lists; by default the published ones. Labels
            of the result are the ratios as published (0.25, ..., for ShuffleNet 0.5, 1.0, 2.0), or 1, 2, ... for lists.
        image_size: pixels of the square for which costs are counted.

    Raises:
        WidthError: unknown model, or widths that it cannot have.

    Source: arXiv 1812.08928, 1903.05134, 1903.11728.
    """
    spec = published(model)
    example = torch.zeros(1, 3, image_size, image_size)
    if spec.convolutions:
        return _from_lists(model, LISTS[model] if widths is None else widths, example)
    if widths is not None and spec.norm == "switchable":
        return _from_ratios(model, widths, example)
    listed = dict(spec.widths) if widths is None else _ratios(model, widths)
    network = spec.build()
    if spec.build is models.ShuffleNetV1:
        # ShuffleNet keeps its three groups in step: every axis narrows by the same number of units.
        space = tied(channel_space(network, example), _SHUFFLE_UNITS)
        return Elastic(network, norm=spec.norm, widths=listed, space=space)
    divisor = {"*": max(spec.divisor, 1)}
    divisor |= {
        f"features.{b}.body.0": spec.divisor * spec.expansion for b in range(2, 18) if spec.expansion > 1
    }
    freeze = [TAIL] if spec.shared_tail else []
    return Elastic(network, example, norm=spec.norm, widths=listed, divisor=divisor, freeze=freeze)


def _ratios(model: str, widths: Sequence[Any]) -> dict[float, float]:
    """Published label -> our ratio."""
    scale = max(published(model).widths)
    _check_ratios(model, widths, scale)
    return {float(w): w / scale for w in widths}


def _check_ratios(model: str, widths: Sequence[Any], largest: float) -> None:
    wrong = [
        w for w in widths if isinstance(w, bool) or not isinstance(w, int | float) or not 0 < w <= largest
    ]
    if wrong or not widths:
        raise WidthError(f"{model}: expected ratios above 0 and up to {largest:g}, got {wrong or 'none'}")


def _from_ratios(model: str, widths: Sequence[Any], example: Tensor) -> Elastic:
    """A slimmable network of other widths than the published: its tensors have the size of the widest in the list."""
    spec = published(model)
    _check_ratios(model, widths, 8.0)
    if spec.build is models.ShuffleNetV1:
        network = spec.build(channels=[int(base * max(widths)) for base in _SHUFFLE])
        space = tied(channel_space(network, example), _shuffle_units(widths))
        return Elastic(
            network, norm=spec.norm, widths={float(w): w / max(widths) for w in widths}, space=space
        )
    rows = {float(w): _flat(model, w, max(widths)) for w in widths}
    columns = _CONVOLUTIONS[spec.build]
    network = spec.build(channels=rows[float(max(widths))])
    freeze = [TAIL] if spec.shared_tail else []
    net = Elastic(network, example, norm=spec.norm, widths={}, freeze=freeze)
    for label, channels in rows.items():
        net.list_width_(label, _width(net, model, columns, channels))
    return net


def _shuffle_units(widths: Sequence[float]) -> int:
    """The most equal shares that all axes of the widest network have and that each width is a whole number of."""
    # Widths (0.5, 1, 2): a third of the widest axes has 16, 40, 80, 160, 144, 160 and 320 channels. They are all
    # multiples of 8, and 8 units make 2, 4 and 8 of them at the three widths.
    thirds = [int(base * max(widths)) // 3 for base in (24, 60, 120, 240, 216, 240, 480)]
    for units in range(min(thirds), 0, -1):
        shares = [units * w / max(widths) for w in widths]
        if all(third % units == 0 for third in thirds) and all(abs(s - round(s)) < 1e-9 for s in shares):
            return units
    raise WidthError(
        f"s_shufflenet: the widths {list(widths)} are not whole shares of the widest one's channels"
    )


def make_divisible(value: float) -> int:
    """The reference's rounding: the nearest multiple of 8, halves up, at least 1, not under 90 % of the value."""
    # 11 -> 8, which is under 90 % of 11, -> 16.
    rounded = max(1, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def _flat(model: str, width: float, widest: float) -> list[int]:
    """Channels of a slimmable network at a width, in the form of AutoSlim's lists."""
    if model == "s_mobilenet_v1":
        return [make_divisible(base * width) for base in CHANNELS]
    if model == "s_mobilenet_v2":
        # The last convolution does not shrink below 1280 channels: `shared_tail`.
        channels = [make_divisible(32 * width)]
        before = channels[0]
        for expansion, base, blocks, _, _ in MOBILENET_V2:
            for _ in range(blocks):
                hidden, before = expansion * before, make_divisible(base * width)
                channels += [before] if expansion == 1 else [hidden, before]
        return [*channels, make_divisible(1280 * widest) if widest > 1 else 1280]
    channels = [int(64 * width)]
    for base, blocks in zip(BASES, BLOCKS[50], strict=True):
        out = int(4 * base * width)
        channels += [out, *[out // 4, out // 4, out] * blocks]
    return channels


def _from_lists(model: str, lists: Sequence[Any], example: Tensor) -> Elastic:
    spec = published(model)
    count = len(spec.convolutions)
    flat: list[list[int]] = []
    for list_number, entry in enumerate(lists, start=1):
        numbers = list(entry) if isinstance(entry, list | tuple) else []
        if len(numbers) not in (count, count + 1) or not all(isinstance(c, int) and c > 0 for c in numbers):
            raise WidthError(
                f"{model}: list {list_number} should be {count} numbers of channels (and at last the classes), got {entry!r}"
            )
        flat.append(numbers[:count])
    if not flat:
        raise WidthError(f"{model}: no channel lists; give at least one")
    widest = [max(column) for column in zip(*flat, strict=True)]
    net = Elastic(spec.build(channels=widest), example, norm=spec.norm, widths={})
    for list_number, channels in enumerate(flat, start=1):
        net.list_width_(list_number, channels_to_width(net, model, channels))
    return net


def channels_to_width(net: Elastic, model: str, channels: Sequence[int]) -> Width:
    """A flat channel list of the recipes as a width of a network that `new` made.

    Raises:
        WidthError: another number of entries, more channels than there are, or channels that an addition joins and
            that the list gives different numbers.
    """
    return _width(net, model, published(model).convolutions, channels)


def _width(net: Elastic, model: str, convolutions: Sequence[str | None], channels: Sequence[int]) -> Width:
    # An addition joins several convolutions in one group, so a list says the channels of such a group repeatedly and
    # must say the same each time.
    count_by_group: dict[str, tuple[int, str]] = {}
    names = net.space.names
    for path, count in zip(convolutions, channels, strict=False):
        axis = None if path is None else net.space.axis(f"{path}.weight", 0)
        if axis is None:
            continue
        group = names[axis[0].group]
        first_count, first_path = count_by_group.setdefault(group, (count, str(path)))
        if first_count != count:
            raise WidthError(
                f"{model}: {path} and {first_path} are added and have as many channels, but the list gives {count} and {first_count}"
            )
    if len(count_by_group) < len(names):
        raise WidthError(
            f"{model}: the list gives no channels for {sorted(set(names) - set(count_by_group))[0]}"
        )
    return net.space.width({group: count for group, (count, _) in count_by_group.items()})
