"""What the command line prints: tables to stdout, progress and errors to stderr."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from anywidth import train
from anywidth.errors import CheckpointError, RecipeError, WidthError

PLAIN_SECONDS = 5.0


def fail(error: Exception) -> NoReturn:
    """One line on stderr, exit code 2; of several processes that fail alike only the first speaks."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        time.sleep(1.0)  # the first process has the word; this one may be stopped meanwhile
        text = f"process {rank}: {text}"
    if not rank or not isinstance(error, RecipeError | WidthError | CheckpointError | FloatingPointError):
        typer.echo(f"error: {' '.join(text.split())}", err=True)
    raise typer.Exit(2)


def say(text: str) -> None:
    """One line on stderr, beside the results on stdout; of several processes only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text, err=True)


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Rows of equal keys as a table; all columns but the first are numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(rows[0] if rows else ()):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row.values())
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def si(value: float) -> str:
    """A count with three digits and a unit prefix: 12345678 -> "12.3 M"."""
    for limit, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{prefix}"
    return f"{value:.3g}"


@contextmanager
def training_progress() -> Iterator[Callable[[train.Progress], None]]:
    """A bar with the time left on a terminal, else a plain line every few seconds; both on stderr."""
    if os.environ.get("RANK", "0") != "0":
        yield lambda progress: None
        return
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, epoch="-", loss="-")

        def show(progress: train.Progress) -> None:
            bar.update(
                task,
                total=progress.steps,
                completed=progress.step,
                epoch=f"{progress.epoch + 1}/{progress.epochs}",
                loss=_losses(progress),
            )

        yield show


class _PlainProgress:
    """Prints at most one line every `PLAIN_SECONDS`."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, progress: train.Progress) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = progress.step - 1
        if now - self._last < PLAIN_SECONDS and progress.step < progress.steps:
            return
        self._last = now
        seconds_left = (now - self._start) / (progress.step - self._first) * (progress.steps - progress.step)
        say(
            f"epoch {progress.epoch + 1}/{progress.epochs}, step {progress.step}/{progress.steps}, "
            f"loss {_losses(progress)}, {seconds_left:.0f} s left"
        )


def _losses(progress: train.Progress) -> str:
    widest, *narrower = progress.losses
    return f"{widest:.3f} (widest)" + (f" {max(narrower):.3f} (worst)" if narrower else "")
