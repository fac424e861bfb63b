"""Runs a search: asks for widths, measures them, remembers every answer on disk, and goes on after a crash.

A searcher is a deterministic machine: `ask` says which widths it wants to know, `tell` gives the answers. So a search that
was killed is replayed from its log, and a search by several processes is one search whose questions are shared out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from anywidth.errors import CheckpointError
from anywidth.files import write_text
from anywidth.search.budget import Costs
from anywidth.search.front import Front
from anywidth.width import Width

Evaluate = Callable[[Sequence[Width]], Sequence[float]]
"""Widths -> errors in [0, 1]."""


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


@dataclass(frozen=True, kw_only=True)
class Together:
    """Several processes that search as one; by default a process alone.

    Attributes:
        rank, world: number of this process, and of all.
        gathered: a value -> the values of all processes, in their order.
        from_first: the value that a function has in the first process; only that one runs it.
    """

    rank: int = 0
    world: int = 1
    gathered: Callable[[Any], list[Any]] = lambda value: [value]
    from_first: Callable[[Callable[[], Any]], Any] = lambda function: function()


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
    closed_form: bool = True,
    together: Together = Together(),
    report: Callable[[Round], None] = lambda done: None,
    about: Mapping[str, Any] | None = None,
) -> Front:
    """Ask, measure and tell until the searcher is done.

    Args:
        searcher: fresh.
        evaluate: widths -> errors; each process is given its share of a round.
        costs: widths -> costs.
        log: JSON lines of all answers; what is there already is not measured again.
        closed_form: costs are computed, not measured; measured ones are logged, so that a replay sees the same.
        together: the processes.
        report: is told about every round.
        about: plain data that decides the answers (the images, the weights); a log with other data is refused.

    Returns:
        The front.

    Raises:
        CheckpointError: the log is of another search.
    """
    book = _Log(log if together.rank == 0 else None, {**searcher.identity(), **(about or {})})
    records = together.from_first(book.open_)
    known = {tuple(r["width"]): r["cost"] for r in records if "cost" in r}
    answered = [r for r in records if "errors" in r]

    def measured(widths: Sequence[Width]) -> Sequence[float]:
        if closed_form:
            return costs(widths)
        for width in widths:
            if width.kept not in known:
                known[width.kept] = together.from_first(lambda width=width: float(costs([width])[0]))
                book.append_({"width": list(width.kept), "cost": known[width.kept]})
        return [known[width.kept] for width in widths]

    number = 0
    while asked := searcher.ask(measured):
        replayed = number < len(answered)
        if replayed:
            if answered[number]["widths"] != [list(w.kept) for w in asked]:
                raise CheckpointError(
                    f"{log}: round {number + 1} holds other widths than this search asks for; it was written by another "
                    "version or network: remove it to search anew"
                )
            errors = [float(e) for e in answered[number]["errors"]]
        else:
            errors = _shared(asked, evaluate, together)
            book.append_({"round": number, "widths": [list(w.kept) for w in asked], "errors": errors})
        spent = [float(c) for c in measured(asked)]
        searcher.tell(asked, spent, errors)
        number += 1
        report(
            Round(
                number=number,
                widths=tuple(asked),
                costs=tuple(spent),
                errors=tuple(errors),
                replayed=replayed,
            )
        )
    return searcher.front()


def _shared(widths: Sequence[Width], evaluate: Evaluate, together: Together) -> list[float]:
    """Process r takes every world-th width."""
    mine = list(widths[together.rank :: together.world])
    answers = together.gathered([float(e) for e in evaluate(mine)] if mine else [])
    return [answers[i % together.world][i // together.world] for i in range(len(widths))]


class _Log:
    """The file; without a path nothing is kept."""

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self.path, self.identity = path, json.loads(json.dumps(identity))

    def open_(self) -> list[dict[str, Any]]:
        """All records but the first, which says whose they are; a line that a crash cut short is removed."""
        if self.path is None:
            return []
        if not self.path.exists() or not (records := self._complete()):
            self.path.unlink(missing_ok=True)
            self.append_({"search": self.identity})
            return []
        found = records[0].get("search") if isinstance(records[0], dict) else None
        if found != self.identity:
            keys = [
                k for k in self.identity if not isinstance(found, dict) or found.get(k) != self.identity[k]
            ]
            raise CheckpointError(
                f"{self.path}: is the log of another search ({', '.join(keys) or 'not a log'} differ); use its settings to go "
                "on, or remove it to search anew"
            )
        return records[1:]

    def _complete(self) -> list[Any]:
        assert self.path is not None
        text = self.path.read_text(encoding="utf-8", errors="replace")
        records, whole = [], []
        for line in text.splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not line.endswith("\n"):
                break
            records.append(record)
            whole.append(line)
        if "".join(whole) != text:
            write_text(self.path, "".join(whole))
        return records

    def append_(self, record: dict[str, Any]) -> None:
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
