"""JSON lines that survive a crash: the first line identifies the log, and every other one is on disk before it counts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anywidth.errors import CheckpointError
from anywidth.files import write_text


class Journal:
    """A file of records that only grows.

    Args:
        path: the file; None keeps nothing.
        kind: what it records, as its first line says.
        identity: plain data; a file of another identity is refused.
    """

    def __init__(self, path: Path | None, kind: str, identity: Mapping[str, Any]) -> None:
        self.path, self.kind = path, kind
        self.identity = json.loads(json.dumps(identity))

    def open_(self) -> list[dict[str, Any]]:
        """All records, or none where the file is new; a last line that a crash cut short is removed.

        Raises:
            CheckpointError: the file is of something else, or damaged; it is left as it was.
        """
        if self.path is None:
            return []
        header = json.dumps({self.kind: self.identity}) + "\n"
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        # A crash while the header was written leaves its beginning, which cannot be another search's file: write it again.
        # A crash during an append leaves a last line without a newline, which is cut off; any other damage is an error.
        if len(text) < len(header) and header.startswith(text):
            write_text(self.path, header)
            return []
        *lines, torn = text.split("\n")
        self._check_owner(lines[0] if lines else torn)
        records = [self._record(line_number, line) for line_number, line in enumerate(lines[1:], 2)]
        if torn:
            write_text(self.path, "".join(f"{line}\n" for line in lines))
        return records

    def _check_owner(self, line: str) -> None:
        record = _read(line)
        recorded_identity = None if record is None else record.get(self.kind)
        if not isinstance(recorded_identity, dict):
            raise CheckpointError(
                f"{self.path}: is not the log of a {self.kind}; name another file, or remove this one"
            )
        if recorded_identity != self.identity:
            keys = [
                k
                for k in {**self.identity, **recorded_identity}
                if recorded_identity.get(k) != self.identity.get(k)
            ]
            raise CheckpointError(
                f"{self.path}: is the log of another {self.kind} ({', '.join(keys)} differ); use its settings to go on, or "
                f"remove it to start over"
            )

    def _record(self, line_number: int, line: str) -> dict[str, Any]:
        record = _read(line)
        if record is None:
            raise self.damaged(line_number)
        return record

    def damaged(self, line: int) -> CheckpointError:
        """The error for a line that cannot be what was written."""
        return CheckpointError(
            f"{self.path}: line {line} is damaged; put the file back as it was, or remove it to start over"
        )

    def append_(self, record: Mapping[str, Any]) -> None:
        """Add a record; it is on disk when this returns."""
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
