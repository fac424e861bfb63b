"""Files that appear whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds, put that file in the place of `path`.

    The new content is on disk (fsync) before it gets its name, so a crash at any moment leaves either the old
    file or the new one. When the block raises, the temporary file is removed and `path` is as it was.

    Raises:
        OSError: if the folder cannot be written.
    """
    # Each process has a temporary file of its own, under a fixed name, so that what a crash left behind is overwritten.
    process = os.environ.get("RANK", "0")
    temporary = path.with_name(f".tmp-{path.name}" if process == "0" else f".tmp-{process}-{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors creates files that only their owner can read; the mode of `touch` follows the umask.
        temporary.chmod(mode)
        _flush(temporary)
        os.replace(temporary, path)
        # The new name is an entry of the folder, which has to reach the disk too.
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
