"""Checkpoints of the reference code's slimmable detectors (Faster and Mask R-CNN, written with mmdetection 0.5).

Their backbones hold one batch norm for each width (`backbone.bn1.bn.3.weight`); necks and heads are shared by all widths.
See `docs/detection.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, unknown_name
from anywidth.interop.checkpoint_files import compare, read_state
from anywidth.models.detectors import detector, example_images, freeze_stages_, short_run
from anywidth.norms.bank import batch_norms

MODELS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
WIDTHS = (0.25, 0.5, 0.75, 1.0)
_CLASSES = 81  # the background and the categories of COCO in ascending order of their ids
_PROPOSALS = 2000
_STRIDES = (4, 8, 16, 32, 64)
_SHARED = ("backbone.fpn", "rpn", "roi_heads")
_NAMES = (
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
    (r"rpn\.head\.conv\.0\.0\.", "rpn_head.rpn_conv."),
    (r"rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"roi_heads\.box_head\.fc6\.", "bbox_head.shared_fcs.0."),
    (r"roi_heads\.box_head\.fc7\.", "bbox_head.shared_fcs.1."),
    (r"roi_heads\.box_predictor\.cls_score\.", "bbox_head.fc_cls."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "bbox_head.fc_reg."),
    (r"roi_heads\.mask_head\.(\d)\.0\.", r"mask_head.convs.\1.conv."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.upsample."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.conv_logits."),
    (r"backbone\.body\.", "backbone."),
)


def reference_detector(model: str, **options: Any) -> nn.Module:
    """A detector of torchvision that computes what the reference's does.

    81 classes; 2000 proposals in training and test; anchors around the middle of a cell, half a stride from where torchvision
    puts them; images padded to multiples of 64, so that the strides torchvision derives from sizes are the true ones.

    Args:
        model: one of `MODELS`.
        options: further arguments of its class.

    Raises:
        CheckpointError: unknown model.
    """
    if model not in MODELS:
        raise CheckpointError(unknown_name("detector of slimmable_networks-detection", model, MODELS))
    # mmdetection keeps 2000 proposals when testing too; torchvision 1000.
    counts = {"rpn_pre_nms_top_n_test": _PROPOSALS, "rpn_post_nms_top_n_test": _PROPOSALS}
    network = detector(model, _CLASSES, **{**counts, **options})
    transform: Any = network.get_submodule("transform")
    anchors: Any = network.get_submodule("rpn.anchor_generator")
    transform.size_divisible = _STRIDES[-1]
    anchors.cell_anchors = [
        cell + stride / 2 for cell, stride in zip(anchors.cell_anchors, _STRIDES, strict=True)
    ]
    return network


def load(
    path: str | Path, model: str, widths: Sequence[float] | None = None, *, image_size: int | None = None
) -> Elastic:
    """Read a detector of the reference code.

    Args:
        path: the file; wrapped (`state_dict`), prefixed (`module.`) or bare. Counters of batch norms may be missing.
        model: one of `MODELS`.
        widths: what the numbers in the file stand for, in its order; by default the published widths.
        image_size: pixels of the square, as the network sees it, for which costs are counted; by default 320.

    Returns:
        The network, ready for these widths: the backbone is elastic, its norms are constants, stem and stage 1 do not learn.

    Raises:
        CheckpointError: unreadable, of another model or of other widths, with the names that do not fit.
        WidthError: impossible widths.

    Source: Slimmable Networks, arXiv 1812.08928, appendix B.
    """
    network = reference_detector(model)
    state = read_state(Path(path))
    labels = list(WIDTHS if widths is None else widths)
    _check_entries(path, state, len(labels))
    size = (image_size or 320, image_size or 320)
    with short_run(network, size):
        net = Elastic(
            network, example_images(network, size), norm="switchable", widths=labels, freeze=_SHARED
        )
    freeze_stages_(network, 3)
    targets = dict(_file_targets(net, labels))
    report = compare(state, targets)
    if not report.fits:
        raise CheckpointError(f"{path} does not fit {model}: {report}")
    with torch.no_grad():
        for key, tensor in targets.items():
            if key in state:
                tensor.copy_(state[key])
            # A counter of 0 would mean that the statistics were never measured.
            if key.endswith("num_batches_tracked"):
                tensor.fill_(max(1, int(tensor)))
    net.norms.freeze_()
    net.drop_views_()
    return net


def _check_entries(path: str | Path, state: dict[str, Tensor], expected: int) -> None:
    indices = {int(match[1]) for key in state if (match := re.search(r"\.bn\.(\d+)\.", key))}
    width_count = max(indices, default=-1) + 1
    if width_count != expected:
        hint = "give the widths of the file in its order: widths=[...]"
        if width_count == 0:
            hint = "an ordinary detector of torchvision is loaded into the model given to anywidth.detect.elastic_detector"
        raise CheckpointError(
            f"{path}: holds batch norms of {width_count} widths, expected {expected}; {hint}"
        )


def _file_targets(net: Elastic, labels: Sequence[float]) -> Iterator[tuple[str, Tensor]]:
    """Name in the file -> our tensor."""
    norms = batch_norms(net.model)
    for name, tensor in net.model.state_dict(keep_vars=True).items():
        # `backbone.body.bn1.weight` -> `backbone.bn1.bn.0.weight`, ..., one entry for each width.
        path, _, tensor_name = name.rpartition(".")
        if path not in norms:
            yield _reference_name(name), tensor
            continue
        for index, label in enumerate(labels):
            narrow_tensor = net.norms.overrides(net.widths[label]).get(name)
            yield (
                f"{_reference_name(f'{path}.')}bn.{index}.{tensor_name}",
                tensor if narrow_tensor is None else narrow_tensor,
            )


def _reference_name(name: str) -> str:
    # `backbone.fpn.inner_blocks.0.0.weight` -> `neck.lateral_convs.0.conv.weight`; the first pattern that fits wins, and
    # `backbone.body` comes last.
    for pattern, replacement in _NAMES:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    return name


__all__ = ["MODELS", "WIDTHS", "load", "reference_detector"]
