"""The schema of a recipe for detectors."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, field_validator, model_validator

from anywidth.data import CocoConfig
from anywidth.detect import DETECTORS, PARTS, DetectionLoss
from anywidth.elastic import Elastic
from anywidth.recipe.schema import (
    LABELS,
    RATIOS,
    CalibrationSection,
    Label,
    Ratio,
    Section,
    is_a,
)
from anywidth.train import Draw, FitConfig, policies
from anywidth.train.policies import declared


class BackboneSection(Section):
    """A slimmable classifier: the file that `net.save` or `anywidth import` wrote, and its network.

    `name` and `kwargs` are those of a recipe's model: a class of `anywidth.models`, "torchvision:NAME" or "timm:NAME".
    """

    weights: str
    name: str = "ResNet"
    kwargs: dict[str, Any] = Field(default={"depth": 50})


class DetectorSection(Section):
    """Which detector, and what of it is elastic: the arguments of `anywidth.detect.elastic_detector`.

    `weights` is an ordinary checkpoint of this detector, which becomes its widest; `backbone` a slimmable classifier. Images are
    scaled to a shorter side of `min_size`, and a longer one of at most `max_size`; `size` is that of the square for which
    costs are counted. `num_classes`, with the background, is by default that of the data; of more, as a checkpoint may
    have them, none is ever found. Further arguments of torchvision's class
    are `kwargs`.
    """

    name: str
    preset: Literal["full", "reference"] = "full"
    parts: dict[str, Any] = Field(default={})
    norm: Literal["switchable", "shared", "frozen"] = "switchable"
    constant_norms: bool | None = None
    weights: str | None = None
    backbone: BackboneSection | None = None
    trainable_layers: int | None = Field(default=None, ge=0, le=5)
    min_size: int = Field(default=800, ge=1)
    max_size: int = Field(default=1333, ge=1)
    size: int = Field(default=320, ge=32)
    num_classes: int | None = Field(default=None, ge=2)
    divisor: int = Field(default=1, ge=1)
    minimum: int = Field(default=1, ge=1)
    freeze: tuple[str, ...] = ()
    kwargs: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _names_are_known(self) -> DetectorSection:
        if self.name not in DETECTORS and ":" not in self.name:
            raise ValueError(
                f"detector.name = {self.name!r} is unknown; known are {', '.join(DETECTORS)}, or your own as package.module:NAME"
            )
        for part_name in self.parts:
            if part_name not in PARTS:
                raise ValueError(
                    f"detector.parts: {part_name!r} is no part of a detector; these are {', '.join(PARTS)}"
                )
        if self.weights is not None and self.backbone is not None:
            raise ValueError(
                "detector.weights and detector.backbone both say where the weights come from: set one of them"
            )
        # SSDlite has images of one size; a recipe that was written back holds the defaults, which pass.
        fixed = {"min_size", "max_size"} & self.model_fields_set
        if self.name.startswith("ssdlite320") and any(
            getattr(self, key) != type(self).model_fields[key].default for key in fixed
        ):
            raise ValueError(
                f"detector.{min(fixed)}: SSDlite scales every image to 320 x 320; leave out min_size and max_size"
            )
        if self.min_size > self.max_size:
            raise ValueError(
                f"detector.min_size = {self.min_size} is above detector.max_size = {self.max_size}"
            )
        return self


class DetectionWidthsSection(Section):
    """Which widths are trained and listed: ratios, or label -> ratio. What they are of each part, `detector.parts` says.

    The policies are those of classifiers: "listed" trains all at each step, as published; the others are in `anywidth train`'s page.
    """

    listed: Annotated[
        Annotated[tuple[Ratio, ...], Tag(RATIOS)] | Annotated[dict[Label, Ratio], Tag(LABELS)],
        is_a(LABELS, RATIOS, RATIOS),
    ] = (0.25, 0.5, 0.75, 1.0)
    policy: str = "listed"
    min: Ratio = 0.25
    max: Ratio = 1.0
    random: int = Field(default=2, ge=0)
    grid: Ratio | None = None
    options: dict[str, Any] = Field(default={})

    @field_validator("listed")
    @classmethod
    def _not_empty(cls, listed: Any) -> Any:
        if not listed:
            raise ValueError("widths.listed is empty: name at least one width")
        for label in listed:
            if set("/\\") & set(str(label)):
                raise ValueError(
                    f"widths.listed: the label {label!r} names files, so it cannot hold '/' or '\\'"
                )
        return listed

    def draw(self, net: Elastic) -> Draw:
        """As `WidthsSection.draw`."""
        return policies.make_draw(
            self.policy, net, low=self.min, high=self.max, random=self.random, grid=self.grid, options=self.options
        )  # fmt: skip


_UNUSED = (
    "target", "target_options", "label_smoothing", "smoothing_over", "dropout_on", "trunk", "compile", "channels_last", "sparsity",
)  # fmt: skip
"""Settings of a training that mean nothing to detectors."""


class DetectionRecipe(Section):
    """Everything that fixes a run of a detector. `device` and `threads` are as in a `Recipe`; `losses` are those of `DetectionLoss`."""

    detector: DetectorSection
    data: CocoConfig
    widths: DetectionWidthsSection = DetectionWidthsSection()
    train: FitConfig
    losses: DetectionLoss = DetectionLoss()
    calibration: CalibrationSection = CalibrationSection()
    seed: int = Field(default=0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _policy_fits(self) -> DetectionRecipe:
        if self.detector.norm == "switchable" and declared(self.widths.policy).draws_unlisted:
            raise ValueError(
                "detector.norm = 'switchable' keeps batch norms for each listed width only: expected widths.policy = 'listed' or "
                f"'listed_sandwich' (a policy of your own declares draws_unlisted=False), got {self.widths.policy!r}; detector.norm = 'shared' has any width"
            )
        if declared(self.widths.policy).searches:
            raise ValueError("widths.policy = 'joslim' is for classifiers")
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> DetectionRecipe:
        defaults = {f.name: f for f in dataclasses.fields(FitConfig)}
        # Only values that differ from the default are refused: a recipe that was written back names every key.
        for name in _UNUSED:
            field = defaults[name]
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
            if getattr(self.train, name) != default:
                raise ValueError(f"train.{name} is a setting of classifiers; leave it out")
        return self
