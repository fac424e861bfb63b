"""anywidth eval: test accuracy at any widths."""

from pathlib import Path

import typer

from anywidth.cli import names
from anywidth.cli.console import print_table, say
from anywidth.cli.results import rows_as_text
from anywidth.cli.run import EVALUATION, finished_run, saved_net
from anywidth.files import write_json


def evaluate(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    widths: str = typer.Option(..., help="Ratios or labels, like 0.25,0.4,1.0."),
    json: Path = typer.Option(None, help="File for the results.  [default: RUN/eval.json]"),
) -> None:
    """Evaluate a finished RUN; a width without batch-norm statistics is calibrated first."""
    directory = finished_run(run)
    net = saved_net(directory)
    wanted = list(dict.fromkeys(names.widths(widths)))
    if missing := [width for width in wanted if not net.has_statistics(width)]:
        say(f"calibrating {', '.join(map(str, missing))}")
        directory.calibrate_(net, missing)
    rows = [directory.result(net, width) for width in wanted]
    write_json(json or run / EVALUATION, {"model": directory.recipe.model.name, "rows": rows})
    print_table(f"{run}", rows_as_text(rows))
