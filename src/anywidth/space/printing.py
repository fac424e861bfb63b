"""A channel space as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from anywidth.space.axes import Frozen
from anywidth.space.groups import ChannelGroup


def show(groups: Iterable[ChannelGroup], frozen: Sequence[Frozen], unknown: Iterable[str]) -> str:
    """Groups with who writes and reads them; then what is frozen, by reason."""
    rows = [("group", "units", "x channels", "divisor", "written by", "read by")]
    for g in groups:
        rows.append(
            (g.name, str(g.size), str(g.unit), str(g.divisor), _shortened(g.writers), _shortened(g.readers))
        )
    column_widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(r, column_widths, strict=True)).rstrip() for r in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in column_widths))
    reasons = Counter(f.reason for f in frozen)
    if reasons:
        lines.append("frozen:")
        for reason, count in reasons.most_common():
            axes = [f"{f.tensor}[{f.axis}]" for f in frozen if f.reason == reason]
            lines.append(f"  {count} {'axis' if count == 1 else 'axes'}: {reason}: {_shortened(axes)}")
    for name in unknown:
        lines.append(f"  no rule for {name}: the channels it touches are frozen")
    return "\n".join(lines)


def _shortened(names: list[str] | tuple[str, ...], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" (+{len(names) - limit})" if len(names) > limit else "")
