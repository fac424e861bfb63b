"""anywidth export: one width as files that run without anywidth."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from anywidth import prune
from anywidth.cli import names
from anywidth.cli.console import say
from anywidth.cli.detection import export_detector
from anywidth.cli.run import RECIPE, Run, example, finished_run, holds_detector, saved_net
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.export.formats import export_onnx, export_program, export_weights
from anywidth.files import write_json
from anywidth.search import named, read_front
from anywidth.space.width import Width

WEIGHTS, PROGRAM, ONNX, DESCRIPTION = "model.safetensors", "model.pt2", "model.onnx", "model.json"


def export(
    run: Path = typer.Argument(metavar="RUN", help="Run directory, or a folder of `anywidth prune`."),
    width: str = typer.Option(None, help="Ratio or label, like 0.5; a label of the front with --front."),
    front: Path = typer.Option(None, help="File of a Pareto front; without --width all of it is exported."),
    out: Path = typer.Option(None, help="Directory to write.  [default: RUN/export-WIDTH]"),
    onnx: bool = typer.Option(False, "--onnx", help="Also write ONNX; needs the extra `export`."),
) -> None:
    """Write one width of a finished RUN as safetensors, a torch program and a description."""
    if (run / prune.ABOUT).exists() and not (run / RECIPE).exists():
        _export_pruned(run, out or run / "export", onnx=onnx)
        return
    if holds_detector(run):
        if front is not None:
            raise WidthError("anywidth export: fronts are of classifiers; a detector takes --width")
        export_detector(run, width, out, onnx=onnx)
        return
    directory = finished_run(run)
    net = saved_net(directory)
    for name, selected in _chosen(width, front):
        _export(directory, net, name, selected, out if width else (out or run) / f"export-{name}", onnx=onnx)


def _chosen(width: str | None, front: Path | None) -> list[tuple[str, Any]]:
    """Names of what is exported, and their widths."""
    if front is None:
        if width is None:
            raise WidthError("anywidth export: say which width: --width 0.5, or --front FILE")
        return [(width, names.width(width))]
    pareto_front = read_front(front)
    members = pareto_front.members if width is None else [named(pareto_front, width, front)]
    return [(member.label, member.width) for member in members]


def _export_pruned(folder: Path, target: Path, *, onnx: bool) -> None:
    """The network that `anywidth prune` left, as it is."""
    metadata = prune.read(folder)
    example = torch.zeros(metadata["input"])
    small = prune.rebuilt(folder, names.build_model(metadata["model"], metadata["kwargs"]), example).eval()
    facts = {"width": "pruned", "macs": metadata["macs"], "params": metadata["params"]}
    _write_all(target, metadata["model"], example, small, facts, onnx=onnx)


def _export(run: Run, net: Elastic, name: str, selected: Any, out: Path | None, *, onnx: bool) -> None:
    if not net.has_statistics(selected):
        say(f"calibrating {name}")
        run.calibrate_(net, [selected])
    small = net.extract(selected).cpu().eval()
    facts = {"macs": int(net.macs(selected)), "params": int(net.params(selected))}
    label = name if isinstance(selected, Width) else selected
    _write_all(
        out or run.path / f"export-{name}",
        run.recipe.model.name,
        example(run),
        small,
        {"width": label, **facts},
        onnx=onnx,
    )


def _write_all(
    target: Path, model: str, x: torch.Tensor, small: nn.Module, facts: dict[str, Any], *, onnx: bool
) -> None:
    """All files or none: they are made beside the target and moved when the last one is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
        _write(model, x, small, Path(folder), facts, onnx=onnx)
        target.mkdir(exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, target / file.name)
            typer.echo(target / file.name)


def _write(
    model: str, x: torch.Tensor, small: nn.Module, folder: Path, facts: dict[str, Any], *, onnx: bool
) -> None:
    export_weights(small, folder / WEIGHTS)
    export_program(small, (x,), folder / PROGRAM)
    if onnx:
        export_onnx(small, (x,), folder / ONNX)
    description = {
        "model": model,
        **facts,
        "input": ["batch", *x.shape[1:]],
        "output": ["batch", *_output_shape(small, x)],
        "shapes": {key: list(value.shape) for key, value in small.state_dict().items()},
        "torch": torch.__version__,
        "run": f"torch.export.load({PROGRAM!r}).module()(x)",
    }
    write_json(folder / DESCRIPTION, description)


@torch.no_grad()
def _output_shape(small: nn.Module, x: torch.Tensor) -> list[int]:
    return list(small(x).shape[1:])
