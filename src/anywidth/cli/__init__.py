"""The command line: `anywidth VERB`, one file per verb."""

from typing import Any

import typer
from typer.core import TyperGroup

from anywidth.cli.calibrate import calibrate
from anywidth.cli.console import fail
from anywidth.cli.eval import evaluate
from anywidth.cli.export import export
from anywidth.cli.gate import gate
from anywidth.cli.importing import import_
from anywidth.cli.pack import pack
from anywidth.cli.profile import profile
from anywidth.cli.pruning import prune_run
from anywidth.cli.report import report
from anywidth.cli.search import find
from anywidth.cli.train import train
from anywidth.errors import AnywidthError


class _Group(TyperGroup):
    """Turns a user's mistake into one line and exit code 2; our own mistakes keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (AnywidthError, OSError) as error:
            fail(error)


app = typer.Typer(
    cls=_Group,
    help="Train one network once, run it at any width.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("calibrate")(calibrate)
app.command("search")(find)
app.command("prune")(prune_run)
app.command("gate")(gate)
app.command("import")(import_)
app.command("pack")(pack)
app.command("profile")(profile)
app.command("export")(export)
app.command("report")(report)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"anywidth {version('anywidth')}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_print_version, is_eager=True
    ),
) -> None:
    pass
