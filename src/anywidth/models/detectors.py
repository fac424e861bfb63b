"""Detectors of torchvision by name, without downloads, and a short run that shows all of their layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from anywidth.compat.torchvision import proposal_settings

_STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")
_ROIS, _DETECTIONS = 24, 6
_EVERY_SCORE, _NO_SCORE = -1.0, 2.0  # thresholds that all, and none, pass


def _pyramid(**options: Any) -> nn.Module:
    return resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5, **options
    )


def _one_stage_pyramid() -> nn.Module:
    return _pyramid(returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))


def _ssdlite(num_classes: int, **options: Any) -> nn.Module:
    return detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes, **options
    )


_BUILDERS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "fasterrcnn_resnet50_fpn": (lambda n, **o: detection.FasterRCNN(_pyramid(), n, **o), 91),
    "maskrcnn_resnet50_fpn": (lambda n, **o: detection.MaskRCNN(_pyramid(), n, **o), 91),
    "keypointrcnn_resnet50_fpn": (lambda n, **o: detection.KeypointRCNN(_pyramid(), n, **o), 2),
    "retinanet_resnet50_fpn": (lambda n, **o: detection.RetinaNet(_one_stage_pyramid(), n, **o), 91),
    "fcos_resnet50_fpn": (lambda n, **o: detection.FCOS(_one_stage_pyramid(), n, **o), 91),
    "ssdlite320_mobilenet_v3_large": (_ssdlite, 91),
}
DETECTORS = tuple(_BUILDERS)
_CLASSES: dict[str, type[nn.Module]] = {
    "fasterrcnn_resnet50_fpn": detection.FasterRCNN,
    "maskrcnn_resnet50_fpn": detection.MaskRCNN,
    "keypointrcnn_resnet50_fpn": detection.KeypointRCNN,
    "retinanet_resnet50_fpn": detection.RetinaNet,
    "fcos_resnet50_fpn": detection.FCOS,
    "ssdlite320_mobilenet_v3_large": detection.ssd.SSD,
}
_OURS = {
    "self", "num_classes", "backbone", "weights", "weights_backbone", "progress", "rpn", "roi_heads", "transform", "size", "trainable_backbone_layers",
}  # fmt: skip


def detector(name: str, num_classes: int | None = None, **options: Any) -> nn.Module:
    """A detector of torchvision with random weights and ordinary batch norms, all of whose layers learn.

    Args:
        name: one of `DETECTORS`.
        num_classes: with the background; by default 91, for keypoints 2.
        options: further arguments of its class, like `min_size`.

    Raises:
        ValueError: unknown name or option.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown detector {name!r}; known are {', '.join(DETECTORS)}")
    builder, classes = _BUILDERS[name]
    _check_options(name, options)
    return builder(classes if num_classes is None else num_classes, **options)


def _check_options(name: str, options: Iterable[str]) -> None:
    """torchvision's classes swallow what they do not know."""
    function = detection.__dict__[name]
    # FasterRCNN hands unknown keywords to its transform, whose **kwargs drops them, so a typo would go unnoticed. What a
    # class of the hierarchy takes by name is known; everything else is refused.
    callables: list[Any] = [function] if name.startswith("ssdlite320") else []
    callables += [
        cls.__init__ for cls in _CLASSES[name].__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module
    ]
    known = {
        p.name
        for cls in callables
        for p in inspect.signature(cls).parameters.values()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    } - _OURS
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it has {', '.join(sorted(known))}")


def has_stages(model: nn.Module) -> bool:
    """Whether the backbone is a ResNet of torchvision: a stem and four stages."""
    body = getattr(getattr(model, "backbone", None), "body", None)
    return all(hasattr(body, stage) for stage in _STAGES)


def freeze_stages_(model: nn.Module, learning: int) -> None:
    """Keep the first layers of a ResNet backbone from learning.

    Args:
        model: a detector with `backbone.body`; changed in place.
        learning: how many of the stem and the four stages learn, counted from the last: 3 leaves out stem and stage 1.

    Raises:
        ValueError: another number than 0 to 5, or a backbone of other stages.
    """
    if not 0 <= learning <= len(_STAGES):
        raise ValueError(
            f"trainable_layers={learning}: a ResNet has a stem and four stages, so give a number from 0 to 5"
        )
    if not has_stages(model):
        raise ValueError(
            f"trainable_layers={learning}: the backbone of this {type(model).__name__} has no stem and stages of a ResNet; "
            "leave it out"
        )
    # learning = 3: layer1, conv1 and bn1 are frozen; 5: nothing is.
    frozen = [*_STAGES[learning:], *(["bn1"] if learning < len(_STAGES) else [])]
    # The norm of the stem goes with its convolution.
    for stage in frozen:
        model.get_submodule(f"backbone.body.{stage}").requires_grad_(False)


def example_images(model: nn.Module, size: Sequence[int]) -> tuple[list[Tensor]]:
    """The arguments of a detector for one image (3, H, W) of its device and type: the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    return ([torch.rand(3, *size, generator=generator).to(next(model.parameters()))],)


@contextmanager
def short_run(model: nn.Module, size: Sequence[int]) -> Iterator[None]:
    """Settings under which a forward runs through every layer and takes little time.

    Images of `size` (H, W) are not resized; heads on regions get a few of them, whatever their scores; detectors without
    such heads return none.
    """
    # Thresholds that every score passes, or none: the layers run, and the result does not depend on the weights.
    proposal_counts = {"training": _ROIS, "testing": _ROIS}
    settings: dict[str, dict[str, Any]] = {
        "transform": {"min_size": (min(size),), "max_size": max(size), "fixed_size": (size[1], size[0])},
        "rpn": proposal_settings(proposal_counts),
        "roi_heads": {"score_thresh": _EVERY_SCORE, "detections_per_img": _DETECTIONS},
        "": {"score_thresh": _NO_SCORE, "topk_candidates": _DETECTIONS},
    }
    saved: list[tuple[nn.Module, str, Any]] = []
    try:
        for path, values in settings.items():
            m = getattr(model, path, None) if path else model
            for key, value in values.items():
                if m is not None and vars(m).get(key) is not None:
                    saved.append((m, key, vars(m)[key]))
                    vars(m)[key] = value
        yield
    finally:
        for m, key, value in saved:
            vars(m)[key] = value
