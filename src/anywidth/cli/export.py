"""anywidth export: one width as files that run without anywidth."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import ConsoleReporter, print_line


def export_command(
    run: Path = typer.Argument(metavar="RUN", help="Run directory, or a folder of `anywidth prune`."),
    width: str = typer.Option(None, help="Ratio or label, like 0.5; a label of the front with --front."),
    front: Path = typer.Option(None, help="File of a Pareto front; without --width all of it is exported."),
    out: Path = typer.Option(None, help="Directory to write.  [default: RUN/export-WIDTH]"),
    onnx: bool = typer.Option(False, "--onnx", help="Also write ONNX; needs the extra `export`."),
    target: list[str] = typer.Option(None, help="Also write this: onnx, or your own: package.module:NAME."),
) -> None:
    """Write one width of a finished RUN as safetensors, a torch program and a description."""
    targets = (*(target or ()), *(["onnx"] if onnx and "onnx" not in (target or ()) else []))
    for exported in workflows.export(
        run, width, front=front, out=out, targets=targets, reporter=ConsoleReporter()
    ):
        for file in exported.files:
            print_line(file)
