"""anywidth calibrate: batch-norm statistics for more widths of a finished run."""

from pathlib import Path

import typer

from anywidth.cli import names
from anywidth.cli.console import say
from anywidth.cli.run import NET, finished_run, saved_net
from anywidth.train import distributed


def calibrate(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    widths: str = typer.Option(..., help="Ratios or labels, like 0.3,0.4, or `listed`."),
    batches: int = typer.Option(None, min=1, help="Training batches.  [default: the recipe's]"),
) -> None:
    """Collect batch-norm statistics of WIDTHS from training images, list them, and save the network again."""
    directory = finished_run(run)
    with distributed.processes(directory.device):
        net = saved_net(directory)
        selected = list(net.widths) if widths == "listed" else names.widths(widths)
        directory.calibrate_(net, selected, batches=batches)
        if distributed.rank() == 0:
            net.save(run / NET)
    say(f"{run / NET}: statistics of {', '.join(map(str, selected))}")
