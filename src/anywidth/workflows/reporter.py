"""What a workflow says while it runs: messages, tables and progress go to a `Reporter`, which is silent by default."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from anywidth.train import Progress
from anywidth.workflows.tables import TextTable


class Reporter(Protocol):
    """Takes messages, tables and the progress of a training; `anywidth.cli.console` prints them."""

    def say(self, text: str) -> None:
        """One line about what is being done."""
        ...

    def show(self, table: TextTable) -> None:
        """Numbers of a step of the work, which are not among those that the workflow returns."""
        ...

    def training(self) -> AbstractContextManager[Callable[[Progress], None]]:
        """A context that shows a training; it gives the function that is told about every step."""
        ...


class SilentReporter:
    """Says nothing."""

    def say(self, text: str) -> None:
        pass

    def show(self, table: TextTable) -> None:
        pass

    def training(self) -> AbstractContextManager[Callable[[Progress], None]]:
        return nullcontext(lambda progress: None)


SILENT: Reporter = SilentReporter()


def spoken_once(reporter: Reporter) -> Reporter:
    """`reporter` in the first of the processes that torchrun started, silence in the others.

    The environment is asked, as messages are spoken before the processes have joined, too.
    """
    return reporter if os.environ.get("RANK", "0") == "0" else SILENT
