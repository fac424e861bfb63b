"""What of a detector is elastic, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from anywidth.norms.bank import NormPolicy
from anywidth.space.groups import Policy

Preset = Literal["full", "reference"]


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector becomes elastic.

    Attributes:
        preset: "full": backbone, neck and heads; "reference": the backbone alone, as published, of which the laterals read
            the channels that are there.
        parts: part ("backbone", "neck", "heads") -> its share: a number for all widths (1.0: it stays as it is), a
            sequence with one number per width, or label -> number. Parts left out follow the widths.
        norm: "switchable", "shared" or "frozen" batch norms.
        constant_norms: whether norms keep their numbers in training. By default where only the backbone has norms, whose
            numbers come from a classifier.
        trainable_layers: how many of stem and stages of a ResNet learn, counted from the last; by default 3 with a
            backbone that was trained or in the preset "reference", else all.
        size: pixels (H, W), or of a square, of the image as the network sees it, for which costs are counted.
        num_classes: of a named detector, with the background.
        divisor, minimum, freeze: as of `Elastic`.

    Raises:
        ValueError: an unknown preset.
    """

    preset: Preset = "full"
    parts: Mapping[str, Any] | None = None
    norm: NormPolicy = "switchable"
    constant_norms: bool | None = None
    trainable_layers: int | None = None
    size: int | Sequence[int] = 320
    num_classes: int | None = None
    divisor: Policy = 1
    minimum: Policy = 1
    freeze: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ValueError(f"preset={self.preset!r} is unknown; known are {', '.join(get_args(Preset))}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W)."""
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
