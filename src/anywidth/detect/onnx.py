"""ONNX of a detector at one width, for images of one size."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from anywidth.detect.parts import check_detector
from anywidth.errors import AnywidthError
from anywidth.files import replacing
from anywidth.models.detectors import example_images

_OPSET = 17


def export_onnx(module: nn.Module, path: str | Path, *, size: int | Sequence[int]) -> None:
    """Write a detector that onnxruntime runs on images of one size.

    The file has one input (3, H, W), values in 0..1, and as outputs what the detector returns: boxes, labels, scores, and
    masks or keypoints. Resizing, anchors and suppression of boxes are inside.

    Args:
        module: an extracted detector (`net.extract(w)`); its mode is kept.
        path: file to write, by convention *.onnx.
        size: pixels (H, W) of the images, or of a square.

    Raises:
        ValueError: not a detector.
        AnywidthError: the packages of the extra `export` are missing, or torch cannot export this detector.

    Torch's exporter through `torch.jit` is used: `torch.export`, behind the newer one, refuses the data-dependent shapes of
    box suppression.
    """
    check_detector(module)
    if importlib.util.find_spec("onnx") is None:
        raise AnywidthError("ONNX export needs onnx: pip install 'anywidth[export]'")
    shape = (size, size) if isinstance(size, int) else tuple(size)
    # `module.train(mode)` would set one mode for all submodules; frozen norms may differ, so each is restored.
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with warnings.catch_warnings(), replacing(Path(path)) as temporary:
            warnings.simplefilter(
                "ignore"
            )  # of the exporter about itself, and about sizes that become constants
            torch.onnx.export(
                module,
                example_images(module, shape),
                str(temporary),
                dynamo=False,
                opset_version=_OPSET,
                input_names=["image"],
                output_names=_outputs(module),
            )
    except Exception as error:  # torch.onnx raises many types
        text = str(error).strip().splitlines()
        raise AnywidthError(
            f"torch.onnx cannot export {type(module).__name__}: {text[0] if text else type(error).__name__}"
        ) from error
    finally:
        for m, mode in modes:
            m.training = mode


def _outputs(module: nn.Module) -> list[str]:
    """Names in the order in which the detector gives them."""
    if not hasattr(module, "roi_heads"):
        return ["boxes", "scores", "labels"]
    names = ["boxes", "labels", "scores"]
    heads = module.get_submodule("roi_heads")
    if getattr(heads, "mask_head", None) is not None:
        names.append("masks")
    if getattr(heads, "keypoint_head", None) is not None:
        names += ["keypoints", "keypoints_scores"]
    return names
