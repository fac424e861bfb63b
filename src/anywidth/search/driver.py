"""Runs a search: asks for widths, measures them, records every answer on disk, and resumes after a crash.

A searcher is a deterministic machine: `ask` says which widths it wants to know, `tell` gives the answers. So a search that
was killed is replayed from its log, and a search by several processes is one search whose questions are shared out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from anywidth.cost.budget import Costs
from anywidth.errors import CheckpointError
from anywidth.search.front import Front
from anywidth.search.journal import Journal
from anywidth.search.processes import ALONE, Evaluate, Together, shared
from anywidth.space.width import Width


class Searcher(Protocol):
    """Chooses widths.

    `identity` is plain data: everything that decides what it asks, besides the answers.
    """

    def identity(self) -> dict[str, Any]: ...

    def ask(self, costs: Costs) -> list[Width]:
        """What it wants to know next; nothing when it is done."""
        ...

    def tell(self, widths: Sequence[Width], costs: Sequence[float], errors: Sequence[float]) -> None:
        """The answers, in the order of the questions."""
        ...

    def front(self) -> Front:
        """What it found."""
        ...


@runtime_checkable
class Recalling(Searcher, Protocol):
    """A searcher whose questions are expensive to work out, and depend on the answers alone."""

    def recall_(self, rows: Sequence[Sequence[int]]) -> list[Width]:
        """The widths of a round from their units, as the log has them.

        Raises:
            WidthError: widths of another network.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of questions and answers, for a progress display."""

    number: int
    widths: tuple[Width, ...]
    costs: tuple[float, ...]
    errors: tuple[float, ...]
    replayed: bool


def run_search(
    searcher: Searcher,
    evaluate: Evaluate,
    costs: Costs,
    *,
    log: Path | None = None,
    about: Mapping[str, Any] | None = None,
    together: Together = ALONE,
    report: Callable[[Round], None] = lambda done: None,
) -> Front:
    """Ask, measure and tell until the searcher is done.

    Args:
        searcher: fresh.
        evaluate: widths -> errors; each process is given its share of a round.
        costs: widths -> costs, always the same for a width: measured ones are to be `remembered`.
        log: JSON lines of all answers; what is there already is not measured again.
        about: plain data that decides the answers: which images, which weights. The log of others is refused.
        together: the processes.
        report: called after every round.

    Returns:
        The front; `about` is added to what it says of itself.

    Raises:
        CheckpointError: the log is of another search, or damaged.
        ValueError: `evaluate` gives something else than one number for each width.
        MeasurementError: one of them is not finite.
    """
    # Line 1 of the log says whose it is, line k + 2 holds round k (from 0). The searcher asks; a round that the log holds is
    # answered from there, every other is measured, written, and only then passed to `tell`:
    #     run 1: ask, measure, write, tell, ask, measure (crash)    run 2: ask, read, tell, ask, measure, write, tell, ...
    provenance = dict(about or {})
    book = Journal(log if together.rank == 0 else None, "search", {**searcher.identity(), **provenance})
    records = together.from_first(book.open_)
    round_index = 0
    while asked := _asked(searcher, costs, book, records, round_index):
        replayed = round_index < len(records)
        if replayed:
            errors = _replayed(book, round_index, records[round_index], asked)
        else:
            errors = shared(evaluate, asked, together)
            book.append_({"round": round_index, "widths": [list(w.kept) for w in asked], "errors": errors})
        spent = [float(c) for c in costs(asked)]
        searcher.tell(asked, spent, errors)
        round_index += 1
        report(
            Round(
                number=round_index,
                widths=tuple(asked),
                costs=tuple(spent),
                errors=tuple(errors),
                replayed=replayed,
            )
        )
    if round_index < len(records):
        raise book.damaged(round_index + 2)
    front = searcher.front()
    return replace(front, about={**front.about, **provenance})


def _asked(
    searcher: Searcher, costs: Costs, book: Journal, records: Sequence[dict[str, Any]], round_index: int
) -> list[Width]:
    """The next questions; those of a searcher that recalls are read from its log, where they are."""
    if round_index >= len(records) or not isinstance(searcher, Recalling):
        return searcher.ask(costs)
    try:
        return searcher.recall_(records[round_index]["widths"])
    except (KeyError, TypeError, ValueError):
        raise book.damaged(round_index + 2) from None


def _replayed(book: Journal, round_index: int, record: dict[str, Any], asked: Sequence[Width]) -> list[float]:
    """The errors of a round from its line of the log."""
    errors, widths = record.get("errors"), record.get("widths")
    if record.get("round") != round_index or not isinstance(errors, list) or not isinstance(widths, list):
        raise book.damaged(round_index + 2)
    if len(errors) != len(widths) or not all(isinstance(e, float) and math.isfinite(e) for e in errors):
        raise book.damaged(round_index + 2)
    if widths != [list(w.kept) for w in asked]:
        raise CheckpointError(
            f"{book.path}: round {round_index + 1} holds other widths than this search asks for; it was written by another "
            "version or network: remove it to start a new search"
        )
    return errors
