"""The log of a run: one JSON object per line."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anywidth.errors import RecipeError
from anywidth.files import write_text

LOG = "log.jsonl"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line; a number that JSON lacks (NaN, infinity) is written as text."""
    line = json.dumps({key: _plain(value) for key, value in record.items()}, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    # inf - inf and nan - nan are nan, which is not 0.
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def read(path: Path) -> list[dict[str, Any]]:
    """All records; a last line that a crash cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def rewind_(path: Path, *, step: int) -> None:
    """Drop what was logged after the first `step` steps, so that going on from there logs each step once."""
    if not path.exists():
        return
    # Steps after the last checkpoint are trained again, so their lines would come twice.
    kept = [json.dumps(record) for record in read(path) if record.get("step", 0) <= step]
    write_text(path, "".join(line + "\n" for line in kept))


class Log:
    """The log of a training: `log.jsonl`, and event files for TensorBoard if wanted.

    Args:
        run: directory; events go to its folder `tensorboard`.
        tensorboard: write events too.
        silent: write nothing (processes other than the first).

    Raises:
        RecipeError: TensorBoard is wanted and not installed.
    """

    def __init__(self, run: Path, *, tensorboard: bool = False, silent: bool = False) -> None:
        self.path, self.events, self.silent = run / LOG, run / "tensorboard", silent
        self.writes_events = tensorboard and not silent
        self.writer: Any = None
        if self.writes_events and importlib.util.find_spec("tensorboard") is None:
            raise RecipeError("train.tensorboard needs tensorboard: pip install 'anywidth[tensorboard]'")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def __call__(self, event: str, step: int, **values: Any) -> None:
        """Write one record."""
        if self.silent:
            return
        append(self.path, {"event": event, "step": step, **values})
        if self.writes_events:
            self._open(step)
            for name, value in _scalars(event, values):
                self.writer.add_scalar(name, value, step)

    def _open(self, step: int) -> None:
        if self.writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self.writer = SummaryWriter(str(self.events), purge_step=step)

    def restart_(self) -> None:
        """Forget an earlier training."""
        if not self.silent:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(self.events, ignore_errors=True)

    def rewind_(self, *, step: int) -> None:
        """Forget what came after `step`."""
        if not self.silent:
            rewind_(self.path, step=step)


def _scalars(event: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and numbers of a record; entries of a list are numbered, of a dictionary named."""
    if event in ("start", "resume"):
        return
    for name, value in values.items():
        # event "step", losses (0.9, 1.1) -> "step/losses/0" 0.9, "step/losses/1" 1.1.
        scalars = {name: value}
        if isinstance(value, list | tuple):
            scalars = {f"{name}/{i}": v for i, v in enumerate(value)}
        elif isinstance(value, dict):
            scalars = {f"{name}/{key}": v for key, v in value.items()}
        for label, scalar in scalars.items():
            if isinstance(scalar, int | float):
                yield f"{event}/{label}", float(scalar)
