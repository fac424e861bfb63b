"""The parts of a detector, found from where its channels are made: backbone, neck, heads."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import WidthError, unknown_name
from anywidth.norms.bank import batch_norms
from anywidth.norms.constant_norms import copy_state_
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width

Part = Literal["backbone", "neck", "heads"]
PARTS: tuple[Part, ...] = get_args(Part)
_NECKS = (
    "fpn",
    "extra",
)  # what detectors of torchvision call the part of their backbone that no classifier has


def part_of(path: str) -> Part:
    """The part that a module of a torchvision detector belongs to, by its path."""
    names = path.split(".")
    if names[0] != "backbone":
        return "heads"
    return "neck" if len(names) > 1 and names[1] in _NECKS else "backbone"


def groups_of(space: ChannelSpace) -> dict[Part, list[str]]:
    """Part -> names of its channel groups. A group belongs to the part that makes its channels first.

    The depthwise convolutions in the heads of SSDlite have the channels of the features that they read, and no others:
    these heads have no group of their own.
    """
    groups: dict[Part, list[str]] = {part_name: [] for part_name in PARTS}
    for group in space.groups:
        groups[part_of(group.name)].append(group.name)
    return groups


def is_detector(model: nn.Module) -> bool:
    """Whether a model is a detector in the manner of torchvision."""
    return isinstance(model, nn.Module) and all(hasattr(model, name) for name in ("backbone", "transform"))


def check_detector(model: nn.Module) -> None:
    """
    Raises:
        ValueError: not a detector in the manner of torchvision.
    """
    if not is_detector(model):
        raise ValueError(
            f"{type(model).__name__} is no detector of torchvision, which has a backbone and a transform; make other models "
            "elastic with aw.Elastic(model, example_inputs)"
        )


def check_names(parts: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """`parts`, where None is none of them.

    Raises:
        WidthError: not a mapping, or parts that no detector has.
    """
    if parts is None:
        return {}
    if not isinstance(parts, Mapping):
        raise WidthError(f"parts={parts!r}: give a dict of part -> share, like {{'heads': 1.0}}")
    for part_name in parts:
        if part_name not in PARTS:
            raise WidthError(unknown_name("part of a detector", part_name, PARTS))
    return parts


def check_parts(parts: Mapping[str, Any], space: ChannelSpace) -> None:
    """
    Raises:
        WidthError: parts that do not exist, or have no channels that could go.
    """
    groups = groups_of(space)
    for part_name, share in check_names(parts).items():
        if not groups[part_name] and share != 1.0:  # type: ignore[index]
            known = ", ".join(p for p in PARTS if groups[p])
            raise WidthError(
                f"this detector has no elastic channels of its own in its {part_name} (it has in: {known}); leave '{part_name}' out"
            )


def part_width(net: Elastic | ChannelSpace, **shares: float) -> Width:
    """A width from a share of each part.

    Args:
        net: an elastic detector, or its channel space.
        shares: `backbone`, `neck`, `heads`: multipliers in (0, 1], by default 1.0.

    Raises:
        WidthError: a part that does not exist or is not elastic, or a share outside (0, 1].
    """
    # heads=0.5 on groups {"backbone": [a, b], "neck": [c], "heads": [d, e]} gives space.width({d: 0.5, e: 0.5}):
    # groups without an entry keep all their channels.
    space = net.space if isinstance(net, Elastic) else net
    check_parts(shares, space)
    groups = groups_of(space)
    ratios = {name: float(share) for part_name, share in shares.items() for name in groups[part_name]}  # type: ignore[index]
    return space.width(ratios)


def shares_of(parts: Mapping[str, Any], labels: Mapping[Hashable, float]) -> dict[Hashable, dict[str, float]]:
    """Label -> share of every part.

    Args:
        parts: part -> a number (the same at every width), a sequence (one per label, in their order), or label -> number.
            Parts left out follow the label's own multiplier.
        labels: label -> multiplier.

    Raises:
        WidthError: numbers that do not fit the labels.
    """
    # parts = {"heads": 1.0}, labels = {"S": 0.5, "L": 1.0}:
    #   columns  {"backbone": [0.5, 1.0], "neck": [0.5, 1.0], "heads": [1.0, 1.0]}
    #   result   {"S": {"backbone": 0.5, "neck": 0.5, "heads": 1.0}, "L": {... all 1.0}}
    columns = {part_name: _column(part_name, parts.get(part_name), labels) for part_name in PARTS}
    return {
        label: {part_name: column[i] for part_name, column in columns.items()}
        for i, label in enumerate(labels)
    }


def _column(part_name: str, shares: Any, labels: Mapping[Hashable, float]) -> list[float]:
    if shares is None:
        return [float(v) for v in labels.values()]
    if isinstance(shares, Mapping):
        if set(shares) != set(labels):
            raise WidthError(
                f"parts: '{part_name}' has shares of {', '.join(map(repr, shares))}, but the widths are {', '.join(map(repr, labels))}"
            )
        return [float(shares[label]) for label in labels]
    if isinstance(shares, Sequence) and not isinstance(shares, str):
        if len(shares) != len(labels):
            raise WidthError(
                f"parts: '{part_name}' has {len(shares)} shares for {len(labels)} widths ({', '.join(map(repr, labels))})"
            )
        return [float(v) for v in shares]
    if isinstance(shares, bool) or not isinstance(shares, int | float):
        raise WidthError(
            f"parts: '{part_name}' = {shares!r}; give a share in (0, 1], one share per width, or label -> share"
        )
    return [float(shares)] * len(labels)


def fixed_parts(shares: Iterable[Mapping[str, float]]) -> set[str]:
    """Parts that stay full at every width."""
    rows = list(shares)
    return {part_name for part_name in PARTS if all(row[part_name] == 1.0 for row in rows)}


def list_parts_(net: Elastic, label: Hashable, **shares: float) -> Width:
    """List a width with its own share of each part; its norms are those of a listed width with the same channels there.

    Args:
        net: an elastic detector.
        label: of the new width.
        shares: as of `part_width`.

    Raises:
        WidthError: see `part_width`.
    """
    width = part_width(net, **shares)
    known = width in net.norms.statistics or width == net.space.full
    twin = None if known else _same_norms(net, width)
    net.list_width_(label, width)
    if twin is not None:
        copy_state_(net.norms, twin, width)
    return width


def _same_norms(net: Elastic, width: Width) -> Width | None:
    """A listed width that is the same in all parts with batch norms, and in what feeds them."""
    # Statistics depend on all channels upstream of a norm, so parts count up to the last one with norms.
    # In a detector whose backbone alone has norms, heads may differ and the statistics are still valid.
    norm_parts = [part_of(path) for path in batch_norms(net.model)]
    deepest = max((PARTS.index(part_name) for part_name in norm_parts), default=-1)
    names = [name for part_name in PARTS[: deepest + 1] for name in groups_of(net.space)[part_name]]
    return next(
        (w for w in net.widths.values() if net.has_statistics(w) and all(w[n] == width[n] for n in names)),
        None,
    )
