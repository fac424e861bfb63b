"""The log of a run: one JSON object per line."""

import json
from pathlib import Path
from typing import Any

from anywidth.files import write_text


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line; a number that JSON lacks (NaN, infinity) is written as text."""
    line = json.dumps({key: _plain(value) for key, value in record.items()}, allow_nan=False)
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
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
    kept = [json.dumps(record) for record in read(path) if record.get("step", 0) <= step]
    write_text(path, "".join(line + "\n" for line in kept))
