"""A width: how many units of every channel group are active. A value, never a state of a layer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anywidth.errors import WidthError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Width(Mapping[str, int]):
    """Active units per channel group: a prefix of each group, or chosen units. As a mapping: group name -> units.

    Attributes:
        names: the groups of the space, in its order.
        kept: active units of each group.
        indices: for widths that are not prefixes, the units of each group (increasing), None for a prefix.
    """

    names: tuple[str, ...]
    kept: tuple[int, ...]
    indices: tuple[tuple[int, ...] | None, ...] | None = None

    def __getitem__(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(unknown_name("channel group", name, self.names))
        return self.kept[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __hash__(self) -> int:
        # Without the names, which are the same for all widths of a network: dicts of widths are looked up in every training step.
        return hash((self.kept, self.indices))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Width):
            return NotImplemented
        return self.kept == other.kept and self.indices == other.indices and self.names == other.names

    def __le__(self, other: Width) -> bool:
        """Whether this width is nested in the other: everything active here is active there."""
        if self.indices is None and other.indices is None:
            return all(a <= b for a, b in zip(self.kept, other.kept, strict=True))
        return all(set(self.units(i)) <= set(other.units(i)) for i in range(len(self.kept)))

    @property
    def is_prefix(self) -> bool:
        return self.indices is None

    def units(self, group: int | str) -> tuple[int, ...] | range:
        """Active units of a group, increasing.

        Args:
            group: its name, or its number in the space's `groups`.
        """
        if isinstance(group, str):
            self[group]  # says which names there are
            group = self.names.index(group)
        indices = self.indices[group] if self.indices is not None else None
        return range(self.kept[group]) if indices is None else indices

    def to_json(self) -> dict[str, Any]:
        """Plain data: units per group, or lists of units."""
        return {
            n: k if isinstance(u := self.units(i), range) else list(u)
            for i, (n, k) in enumerate(self.items())
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Width:
        """The width whose `to_json` is `data`."""
        indices = tuple(None if isinstance(v, int) else tuple(v) for v in data.values())
        kept = tuple(v if isinstance(v, int) else len(v) for v in data.values())
        return Width(
            names=tuple(data), kept=kept, indices=indices if any(u is not None for u in indices) else None
        )

    def __repr__(self) -> str:
        preview = ", ".join(f"{n}: {k}" for n, k in list(self.items())[:3])
        return f"Width({preview}{', ...' if len(self) > 3 else ''})"


def round_units(units: float, *, size: int, quantum: int = 1, minimum: int = 1) -> int:
    """Nearest multiple of `quantum`, halves up, never under 90 % of `units`, at least `minimum` and one quantum.

    The rule of MobileNet's `make_divisible` (Howard et al. 2017), clipped to the group's size; all of it stays all of it.
    """
    # quantum 8: 20 -> 24 (halves up), 13 -> 16, 11 -> 16 (8 would be less than 90 %).
    if units >= size:
        return size
    rounded = max(minimum, quantum, quantum * math.floor(units / quantum + 0.5))
    if rounded < 0.9 * units:
        rounded += quantum
    return min(size, rounded)


def check_multiplier(value: float) -> float:
    """A width multiplier in (0, 1]."""
    multiplier = float(value)
    if not 0.0 < multiplier <= 1.0:
        raise WidthError(
            f"width multiplier {value!r} is outside (0, 1]: 1.0 is the wide network itself, smaller numbers keep "
            "that share of every channel group. Give a number in that range, a label of net.widths, or net.space.width({...})."
        )
    return multiplier


def width_key(width: Width) -> str:
    """A short name for a width, the same on every machine."""
    return hashlib.sha256(json.dumps(width.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def label_text(label: Hashable) -> str:
    """A label as it appears in the names of saved tensors; labels that look alike share one text: 1, 1.0 and "1.0"."""
    # 1, 1.0, "1", "1.0" -> "1.0"; "half" -> "half". A saved file cannot tell the first four apart, so neither may a network.
    if isinstance(label, str):
        try:
            return label_text(float(label))
        except ValueError:
            return label
    if isinstance(label, int | float) and not isinstance(label, bool):
        return repr(float(label))
    return width_key(label) if isinstance(label, Width) else repr(label)


def check_label(label: Hashable, others: Iterable[Hashable]) -> None:
    """Refuse a label that looks like another one.

    Raises:
        WidthError: there is one.
    """
    for listed_label in others:
        if (type(listed_label), listed_label) != (type(label), label) and label_text(
            listed_label
        ) == label_text(label):
            raise WidthError(
                f"the label {label!r} of a width cannot be told from {listed_label!r}, which is listed already; give it another name."
            )
