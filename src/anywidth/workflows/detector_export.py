"""A width of a detector as files: weights, a TorchScript program, ONNX, a description."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from anywidth.elastic import Elastic
from anywidth.export.formats import export_weights
from anywidth.files import write_json
from anywidth.workflows.detector_run import DetectorRun
from anywidth.workflows.naming import parse_width
from anywidth.workflows.reporting import Reporter
from anywidth.workflows.task import Export, ExportOptions


def detector_exports(
    run: DetectorRun, net: Elastic, options: ExportOptions, reporter: Reporter
) -> Iterator[Export]:
    """The width that the options name, calibrated where it has no statistics yet."""
    width = parse_width(options.width) if isinstance(options.width, str) else options.width
    if not net.has_statistics(width):
        reporter.say(f"calibrating {options.width}")
        run.calibrate_(net, [width])
    small = net.extract(width).cpu().eval()
    size = run.recipe.detector.size

    def write(folder: Path) -> None:
        export_weights(small, folder / "model.safetensors")
        with warnings.catch_warnings():  # torch.export, its successor, cannot take detectors
            warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
            torch.jit.script(small).save(str(folder / "model.ts"))
        if options.onnx:
            from anywidth.detect.onnx import export_onnx

            export_onnx(small, folder / "model.onnx", size=(size, size))
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
