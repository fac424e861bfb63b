"""The command line: `anywidth VERB`, one file per verb, which is imported when it is used."""

import os
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from anywidth.cli.console import fail
from anywidth.errors import AnywidthError

VERBS = {
    "train": (
        "anywidth.cli.train:train_command",
        "Train RECIPE; the same command again goes on after an interruption.",
    ),
    "eval": (
        "anywidth.cli.eval:eval_command",
        "Evaluate a finished RUN in one pass over the test images; a width without batch-norm statistics is calibrated first.",
    ),
    "calibrate": (
        "anywidth.cli.calibrate:calibrate_command",
        "Collect batch-norm statistics of WIDTHS from training images, list them, and save the network again.",
    ),
    "search": (
        "anywidth.cli.search:search_command",
        "Search the widths of a finished RUN that do best on held-out training images, within a BUDGET or for every cost.",
    ),
    "prune": (
        "anywidth.cli.prune:prune_command",
        "Prune a finished RUN. Options that are not given come from the section `prune` of its recipe.",
    ),
    "gate": (
        "anywidth.cli.gate:gate_command",
        "Train gates on a finished RUN, and compare them with its static widths on the test images.",
    ),
    "import": ("anywidth.cli.import_:import_command", "Read CHECKPOINT and save it as an elastic network."),
    "pack": (
        "anywidth.cli.pack:pack_command",
        "Pack the images of ROOT, as they are, for `data.name = lmdb`.",
    ),
    "profile": (
        "anywidth.cli.profile:profile_command",
        "Profile MODEL with fresh weights, downloading nothing: groups, cost, latency, what is frozen.",
    ),
    "export": (
        "anywidth.cli.export:export_command",
        "Write one width of a finished RUN as safetensors, a torch program and a description.",
    ),
    "report": (
        "anywidth.cli.report:report_command",
        "Report on a finished RUN: its listed widths and those of its last `anywidth eval`.",
    ),
}
"""Verb -> where its function is, and its line of help, so that neither needs an import."""

# Plain text, and our own mistakes keep their plain traceback.
_PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


def load_verb(verb: str) -> Any:
    """The function of a verb."""
    module, _, function = VERBS[verb][0].partition(":")
    return getattr(import_module(module), function)


class _Group(TyperGroup):
    """Verbs that are imported when they are used.

    `--help` and a mistyped verb need the names and one line of help only, and torch would make them wait for seconds. A user's
    mistake ends with one line and exit code 2.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for verb, (_, text) in VERBS.items():
            self.add_command(TyperCommand(verb, help=text, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in VERBS:
            verb = typer.Typer(**_PLAIN)
            verb.command(args[0])(load_verb(args[0]))
            self.add_command(typer.main.get_command(verb))  # pyright: ignore[reportArgumentType]
        return super().resolve_command(ctx, args)  # suggests verbs with similar names

    def invoke(self, ctx: Any) -> Any:
        # A user's own module lies in the working directory. Python looks there by itself for `python -m anywidth` alone.
        # At the end of the list, so that no file there takes the place of an installed package.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            return super().invoke(ctx)
        except (AnywidthError, OSError) as error:
            fail(error)


app = typer.Typer(
    cls=_Group, help="Train one network once, run it at any width.", no_args_is_help=True, **_PLAIN
)


def _print_version(requested: bool) -> None:
    if requested:
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
