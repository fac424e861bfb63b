"""anywidth calibrate: batch-norm statistics for more widths of a finished run."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import say


def calibrate_command(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    widths: str = typer.Option(..., help="Ratios or labels, like 0.3,0.4, or `listed`."),
    batches: int = typer.Option(None, min=1, help="Training batches.  [default: the recipe's]"),
) -> None:
    """Collect batch-norm statistics of WIDTHS from training images, list them, and save the network again."""
    calibration = workflows.calibrate(run, widths, batches=batches)
    say(f"{calibration.net}: statistics of {', '.join(map(str, calibration.widths))}")
