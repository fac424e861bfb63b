"""A width of a detector as files: weights, a TorchScript program, ONNX, a description."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.export.targets import TARGETS, ExportTarget, named_files, write_files
from anywidth.files import write_json
from anywidth.models.detectors import example_images
from anywidth.workflows.detector_run import DetectorRun
from anywidth.workflows.naming import parse_width
from anywidth.workflows.recipe_task import Export
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.task_options import ExportOptions


def _script(module: nn.Module, inputs: Sequence[Any], path: Path) -> None:
    with warnings.catch_warnings():  # torch.export, its successor, cannot take detectors
        warnings.filterwarnings(
            "ignore", message="`torch.jit"
        )  # a FutureWarning, in torch 2.11 a DeprecationWarning
        torch.jit.script(module).save(str(path))


def _onnx(module: nn.Module, inputs: Sequence[Any], path: Path) -> None:
    from anywidth.detect.onnx import export_onnx

    ((image,),) = inputs
    export_onnx(module, path, size=tuple(image.shape[1:]))


DETECTOR_TARGETS: Mapping[str, ExportTarget] = {
    "weights": TARGETS["weights"],
    "torchscript": ExportTarget(write=_script, suffix=".ts"),
    "onnx": ExportTarget(write=_onnx, suffix=".onnx"),
}
"""What detectors can be written as: they return what `torch.export` cannot follow."""


def detector_exports(
    run: DetectorRun, net: Elastic, options: ExportOptions, reporter: Reporter
) -> Iterator[Export]:
    """The width that the options name, calibrated where it has no statistics yet."""
    files = named_files(("weights", "torchscript", *options.targets), DETECTOR_TARGETS)
    width = parse_width(options.width) if isinstance(options.width, str) else options.width
    if not net.has_statistics(width):
        reporter.say(f"calibrating {options.width}")
        run.calibrate_(net, [width])
    small = net.extract(width).cpu().eval()
    size = run.recipe.detector.size

    def write(folder: Path) -> None:
        write_files(files, small, example_images(small, (size, size)), folder)
        description = {
            "model": run.recipe.detector.name,
            "width": width,
            "params": int(net.params(width)),
            "input": f"a list of images (3, H, W), RGB in 0..1; model.onnx: one image (3, {size}, {size})",
            "output": "for each image boxes (XYXY pixels), labels (1, 2, ...), scores, and masks or keypoints",
            "classes": list(run.splits.classes),
            "category_ids": list(run.splits.raw_ids),
            "shapes": {key: list(value.shape) for key, value in small.state_dict().items()},
            "torch": torch.__version__,
            "run": "import torchvision; torch.jit.load('model.ts')(images)[1]",
        }
        write_json(folder / "model.json", description)

    yield Export(name=str(options.width), write=write)
