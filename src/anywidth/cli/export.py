"""anywidth export: one width as files that run without anywidth."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from anywidth.cli import names
from anywidth.cli.console import say
from anywidth.cli.run import Run, example, finished_run, saved_net
from anywidth.export import export_onnx, export_program, export_weights
from anywidth.files import write_json

WEIGHTS, PROGRAM, ONNX, DESCRIPTION = "model.safetensors", "model.pt2", "model.onnx", "model.json"


def export(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    width: str = typer.Option(..., help="Ratio or label, like 0.5."),
    out: Path = typer.Option(None, help="Directory to write.  [default: RUN/export-WIDTH]"),
    onnx: bool = typer.Option(False, "--onnx", help="Also write ONNX; needs the extra `export`."),
) -> None:
    """Write one width of a finished RUN as safetensors, a torch program and a description."""
    directory = finished_run(run)
    net = saved_net(directory)
    chosen = names.width(width)
    if not net.has_statistics(chosen):
        say(f"calibrating {width}")
        directory.calibrate_(net, [chosen])
    small = net.extract(chosen).cpu().eval()
    facts = {"macs": int(net.macs(chosen)), "params": int(net.params(chosen))}
    target = out or run / f"export-{width}"
    target.parent.mkdir(parents=True, exist_ok=True)
    # All files or none: they are made beside the target and moved when the last one is there.
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
        _write(directory, small, Path(folder), {"width": chosen, **facts}, onnx=onnx)
        target.mkdir(exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, target / file.name)
            typer.echo(target / file.name)


def _write(run: Run, small: nn.Module, folder: Path, facts: dict[str, Any], *, onnx: bool) -> None:
    inputs = (example(run),)
    export_weights(small, folder / WEIGHTS)
    export_program(small, inputs, folder / PROGRAM)
    if onnx:
        export_onnx(small, inputs, folder / ONNX)
    description = {
        "model": run.recipe.model.name,
        **facts,
        "input": ["batch", *inputs[0].shape[1:]],
        "output": ["batch", *_output_shape(small, inputs[0])],
        "shapes": {key: list(value.shape) for key, value in small.state_dict().items()},
        "torch": torch.__version__,
        "run": f"torch.export.load({PROGRAM!r}).module()(x)",
    }
    write_json(folder / DESCRIPTION, description)


@torch.no_grad()
def _output_shape(small: nn.Module, x: torch.Tensor) -> list[int]:
    return list(small(x).shape[1:])
