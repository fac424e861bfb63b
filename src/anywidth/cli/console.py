"""What the command line prints: tables to stdout, progress and errors to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from anywidth.errors import CheckpointError, RecipeError, WidthError

if TYPE_CHECKING:  # torch is loaded by what verbs do, never by what they print
    from anywidth.train import Progress as TrainingProgress
    from anywidth.workflows import TextTable

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
    if _is_first_process():
        typer.echo(text, err=True)


def print_line(text: Any) -> None:
    """One line on stdout, of the first process."""
    if _is_first_process():
        typer.echo(text)


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Rows of equal keys as a table; all columns but the first are numbers. Of several processes only the first prints."""
    from rich.console import Console
    from rich.table import Table as RichTable

    if not _is_first_process():
        return
    table = RichTable(title=title, title_justify="left")
    for index, name in enumerate(rows[0] if rows else ()):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row.values())
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def print_tables(tables: Sequence[TextTable]) -> None:
    """What a workflow returned as text."""
    for table in tables:
        print_table(table.title, table.rows)


class ConsoleReporter:
    """Prints what a workflow says while it runs."""

    def say(self, text: str) -> None:
        say(text)

    def show(self, table: TextTable) -> None:
        print_table(table.title, table.rows)

    def training(self) -> AbstractContextManager[Callable[[TrainingProgress], None]]:
        return training_progress()


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def training_progress() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar with the time left on a terminal, else a plain line every few seconds; both on stderr."""
    if not _is_first_process():
        yield lambda progress: None
        return
    if not sys.stderr.isatty():
        yield _PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]}  left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, epoch="-", loss="-")

        def show(progress: TrainingProgress) -> None:
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

    def __call__(self, progress: TrainingProgress) -> None:
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


def _losses(progress: TrainingProgress) -> str:
    widest, *narrower = progress.losses
    return f"{widest:.3f} (widest)" + (f" {max(narrower):.3f} (worst)" if narrower else "")
