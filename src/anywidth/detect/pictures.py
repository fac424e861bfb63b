"""Pictures of what a detector finds at each width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

_COLUMNS = 5
_INCHES = 3.6  # of a panel's width
_OPACITY = 0.45  # of a mask


def draw_detections(
    image: Tensor,
    outputs: Mapping[str, Mapping[str, Any]],
    *,
    classes: Sequence[str],
    path: Path,
    truth: Mapping[str, Any] | None = None,
    threshold: float = 0.5,
    title: str = "",
) -> None:
    """Write a PNG of one image with its detections at each width, side by side.

    Args:
        image: (3, H, W), RGB in 0..1.
        outputs: of a torchvision detector for this image, in its pixels, by the panel's title.
        classes: names of the classes; label k is classes[k - 1].
        path: of the PNG.
        truth: target of the image; makes a panel before the others. Crowds are drawn dashed.
        threshold: lowest score that is drawn.
        title: above all panels.

    Raises:
        ValueError: no panel, or a label that is no class.
    """
    from matplotlib.figure import Figure

    panels: dict[str, Mapping[str, Any]] = {} if truth is None else {"ground truth": truth}
    panels |= outputs
    if not panels:
        raise ValueError("no outputs to draw: expected those of one width or more, or the ground truth")
    # Ceiling division: 7 panels make 2 rows of 4 columns, 5 panels one row of 5.
    rows = -(-len(panels) // _COLUMNS)
    columns = -(-len(panels) // rows)
    height, width = image.shape[-2:]
    panel_height = _INCHES * height / width + 0.3  # with its title
    figure = Figure(
        figsize=(_INCHES * columns, panel_height * rows + 0.3 * bool(title)), dpi=150, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    pixels = image.detach().cpu().permute(1, 2, 0).numpy().clip(0, 1)
    for axis in axes:
        axis.axis("off")
    for axis, (name, output) in zip(axes, panels.items(), strict=False):
        _panel(axis, name, pixels, _plain(output, threshold, len(classes)), classes)
    if title:
        figure.suptitle(title)
    figure.savefig(path, format="png")


def _plain(output: Mapping[str, Any], threshold: float, classes: int) -> dict[str, np.ndarray]:
    """Arrays of the objects above the threshold, the best last so that it lies on top."""
    arrays = {key: value.detach().cpu().numpy() for key, value in output.items() if isinstance(value, Tensor)}
    labels = arrays["labels"]
    if len(labels) and not 1 <= labels.min() <= labels.max() <= classes:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()}: expected 1 to {classes}, the names that are given"
        )
    kept = np.arange(len(labels))
    if "scores" in arrays:
        kept = np.argsort(arrays["scores"], kind="stable")
        kept = kept[arrays["scores"][kept] >= threshold]
    return {key: value[kept] for key, value in arrays.items() if value.shape[:1] == labels.shape[:1]}


def _panel(
    axis: Any, name: str, pixels: np.ndarray, objects: dict[str, np.ndarray], classes: Sequence[str]
) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    height, width = pixels.shape[:2]
    # Boxes are measured from the corner of the first pixel.
    extent = (0, width, height, 0)
    axis.imshow(pixels, extent=extent, interpolation="nearest")
    for n, label in enumerate(objects["labels"].tolist()):
        colour = colormaps["tab10"]((label - 1) % 10)
        crowd = bool(objects["iscrowd"][n]) if "iscrowd" in objects else False
        if "masks" in objects:
            axis.imshow(_overlay(objects["masks"][n], colour), extent=extent, interpolation="nearest")
        x1, y1, x2, y2 = objects["boxes"][n].tolist()
        style = "--" if crowd else "-"
        axis.add_patch(
            Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2, linestyle=style
            )
        )
        if "keypoints" in objects:
            points = objects["keypoints"][n]
            points = points[points[:, 2] > 0, :2] + 0.5  # a keypoint is the number of a pixel
            axis.scatter(points[:, 0], points[:, 1], s=8, color=colour, edgecolors="white", linewidths=0.4)
        score = f" {objects['scores'][n]:.2f}" if "scores" in objects else ""
        side = "top" if y1 < 0.06 * height else "bottom"
        axis.text(
            max(x1, 0), max(y1, 0), f"{classes[label - 1]}{score}", fontsize=6, color="white", verticalalignment=side,
            clip_on=True, bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )  # fmt: skip
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.set_title(f"{name}: {len(objects['labels'])}", fontsize=9)


def _overlay(mask: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    """(H, W, 4): the colour where the mask is above one half."""
    inside = mask.reshape(mask.shape[-2:]) > 0.5
    return inside[..., None] * np.array([*colour[:3], _OPACITY])
