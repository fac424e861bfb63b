"""A channel space as text."""

from __future__ import annotations

from collections import Counter

from anywidth.channels.space import ChannelSpace


def show(space: ChannelSpace) -> str:
    """Groups with who writes and reads them; then what is frozen, by reason."""
    rows = [("group", "units", "x channels", "divisor", "written by", "read by")]
    for g in space.groups:
        rows.append((g.name, str(g.size), str(g.unit), str(g.divisor), _few(g.writers), _few(g.readers)))
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    lines.insert(1, "  ".join("-" * w for w in widths))
    reasons = Counter(f.reason for f in space.frozen)
    if reasons:
        lines.append("frozen:")
        for reason, count in reasons.most_common():
            where = [f"{f.tensor}[{f.axis}]" for f in space.frozen if f.reason == reason]
            lines.append(f"  {count} axes: {reason}: {_few(where)}")
    for name in space.unknown:
        lines.append(f"  no rule for {name}: the channels it touches are frozen")
    return "\n".join(lines)


def _few(names: list[str] | tuple[str, ...], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" (+{len(names) - most})" if len(names) > most else "")
