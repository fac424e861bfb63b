"""What an evaluation and an export are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anywidth.detect.metrics import Backend


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is evaluated, and how.

    Attributes:
        widths: ratios or labels, text like "0.3,large", or "listed"; None for no other than those of `front`.
        front: classifiers: file of a Pareto front, whose widths are evaluated too.
        metrics: detectors: some of bbox, segm and keypoints; by default all that the detector gives.
        backend: detectors: the package that measures.
        latency: measure the latency of one image, too.
    """

    widths: Sequence[float | str] | str | None = None
    front: Path | None = None
    metrics: Sequence[str] | None = None
    backend: Backend = "faster_coco_eval"
    latency: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported.

    Attributes:
        width: a ratio or label.
        front: file of a Pareto front: all of it, or its label `width`.
        targets: what is written besides the weights, a program and the description.
    """

    width: str | float | None = None
    front: Path | None = None
    targets: tuple[str, ...] = ()
