"""anywidth report: accuracy against MACs, as a table, a picture and JSON."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import print_line, print_tables


def report_command(run: Path = typer.Argument(metavar="RUN", help="Run directory.")) -> None:
    """Report on a finished RUN: its listed widths and those of its last `anywidth eval`."""
    report = workflows.report(run)
    print_tables(report.tables)
    for figure in report.figures:
        print_line(figure)
