"""Tables of benchmarks, each in its section of docs/results.md, with the numbers beside it as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from anywidth.files import write_json, write_text


def publish(out: Path, name: str, text: str, numbers: dict[str, Any]) -> None:
    """Put `text` between the marks of section `name` in OUT/results.md, and `numbers` in OUT/results/NAME.json.

    Raises:
        ValueError: the page has no such section.
    """
    page = out / "results.md"
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    (out / "results").mkdir(parents=True, exist_ok=True)
    write_json(out / "results" / f"{name}.json", numbers)
    old = page.read_text(encoding="utf-8") if page.exists() else f"# Results\n\n{begin}\n{end}\n"
    if begin not in old or end not in old:
        raise ValueError(f"{page}: no section {name}; add the lines {begin} and {end}")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    write_text(page, pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", old))
