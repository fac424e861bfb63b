"""Widths of a classifier as files: weights, a torch program, ONNX, a description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anywidth import prune
from anywidth.elastic import Elastic
from anywidth.export.targets import ExportTarget, named_files, write_files
from anywidth.files import write_json
from anywidth.search import named, read_front
from anywidth.space.width import Width
from anywidth.workflows.classifier_run import ClassifierRun, example_image
from anywidth.workflows.naming import build_model, parse_width
from anywidth.workflows.recipe_task import Export
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.task_options import ExportOptions

PROGRAM, DESCRIPTION = "model.pt2", "model.json"
_ALWAYS = ("weights", "program")


def classifier_exports(
    run: ClassifierRun, net: Elastic, options: ExportOptions, reporter: Reporter
) -> Iterator[Export]:
    """The widths that the options name, calibrated where they have no statistics yet."""
    files = named_files((*_ALWAYS, *options.targets))
    for name, width in _named_widths(options):
        if not net.has_statistics(width):
            reporter.say(f"calibrating {name}")
            run.calibrate_(net, [width])
        description = {
            "width": name if isinstance(width, Width) else width,
            "macs": int(net.macs(width)),
            "params": int(net.params(width)),
        }
        yield _export(
            name,
            run.recipe.model.name,
            example_image(run),
            net.extract(width).cpu().eval(),
            description,
            files,
        )


def _named_widths(options: ExportOptions) -> list[tuple[str, Any]]:
    """Names of what is exported, and their widths."""
    width = options.width
    if options.front is None:
        return [(str(width), parse_width(width) if isinstance(width, str) else width)]
    front = read_front(options.front)
    members = front.members if width is None else [named(front, str(width), options.front)]
    return [(member.label, member.width) for member in members]


def pruned_export(folder: Path, targets: Sequence[str]) -> Export:
    """The network that a pruning left in a folder, as it is."""
    files, pruning = named_files((*_ALWAYS, *targets)), prune.read(folder)
    x = torch.zeros(pruning["input"])
    small = prune.rebuilt(folder, build_model(pruning["model"], pruning["kwargs"]), x).eval()
    description = {"width": "pruned", "macs": pruning["macs"], "params": pruning["params"]}
    return _export("pruned", pruning["model"], x, small, description, files)


def _export(
    name: str,
    model: str,
    x: Tensor,
    small: nn.Module,
    description: dict[str, Any],
    files: Mapping[str, ExportTarget],
) -> Export:
    def write(folder: Path) -> None:
        write_files(files, small, (x,), folder)
        contents = {
            "model": model,
            **description,
            "input": ["batch", *x.shape[1:]],
            "output": ["batch", *_output_shape(small, x)],
            "shapes": {key: list(value.shape) for key, value in small.state_dict().items()},
            "torch": torch.__version__,
            "run": f"torch.export.load({PROGRAM!r}).module()(x)",
        }
        write_json(folder / DESCRIPTION, contents)

    return Export(name=name, write=write)


@torch.no_grad()
def _output_shape(small: nn.Module, x: Tensor) -> list[int]:
    return list(small(x).shape[1:])
