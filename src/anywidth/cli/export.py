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
) -> None:
    """Write one width of a finished RUN as safetensors, a torch program and a description."""
    for exported in workflows.export(run, width, front=front, out=out, onnx=onnx, reporter=ConsoleReporter()):
        for file in exported.files:
            print_line(file)
