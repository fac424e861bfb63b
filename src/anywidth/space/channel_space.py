"""The channel space of a network: its groups, what follows them, and the widths it can take."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from anywidth.errors import WidthError, unknown_name
from anywidth.space.axes import (
    AttributeRule,
    Axis,
    Frozen,
    NumberRule,
    Term,
    attribute_of,
    number_of,
    packed,
    runs_of,
    spelled_out,
    term_of,
)
from anywidth.space.groups import ChannelGroup, Policy, policy_of_group
from anywidth.space.printing import show
from anywidth.space.width import Width, check_multiplier


@dataclass(frozen=True, kw_only=True)
class ChannelSpace:
    """All channel groups of a network and everything that follows them. Immutable; goes to and from JSON.

    Attributes:
        groups: the channel groups; a `Width` gives one number to each.
        axes: parameter or buffer name -> per axis the runs of units along it, None where the axis is fixed.
        attributes: integer attributes of modules that follow the width.
        numbers: floats that the model computed from sizes that follow the width.
        terms: contractions, for the closed-form cost.
        frozen: what is not elastic, and why.
        upstream: path of a batch norm -> the groups, by number, whose channels its input depends on, or that it has itself.
        readers: axes of parameters and buffers that read channels, as (name, axis); None where nobody recorded it.
        tied: those of the readers that also write channels, as a table of embeddings that is the head's weight, too.
        freeze: names or patterns of what was asked to stay.
        free_outputs: names of the model's outputs that may be narrower at a narrow width.
        divisor, minimum: the rounding policies that the groups' own numbers come from.
        unknown: operations without a rule that touched channels, as "operation in module".
    """

    groups: tuple[ChannelGroup, ...]
    axes: Mapping[str, tuple[Axis | None, ...]]
    attributes: tuple[AttributeRule, ...] = ()
    numbers: tuple[NumberRule, ...] = ()
    terms: tuple[Term, ...] = ()
    frozen: tuple[Frozen, ...] = ()
    unknown: tuple[str, ...] = ()
    upstream: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    readers: tuple[tuple[str, int], ...] | None = None
    tied: tuple[tuple[str, int], ...] = ()
    freeze: tuple[str, ...] = ()
    free_outputs: tuple[str, ...] = ()
    divisor: Policy = 1
    minimum: Policy = 1
    _index: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._index.update({g.name: i for i, g in enumerate(self.groups)})

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    @cached_property
    def full(self) -> Width:
        """The wide network itself."""
        return Width(names=self.names, kept=tuple(g.size for g in self.groups))

    @cached_property
    def smallest(self) -> Width:
        """The fewest channels that every group's minimum allows."""
        return Width(names=self.names, kept=tuple(g.round(1e-9) for g in self.groups))

    def rounded(self, divisor: Policy, minimum: Policy, *, strict: bool = True) -> ChannelSpace:
        """The same groups under other rounding policies.

        Args:
            divisor, minimum: in channels.
            strict: whether a pattern that matches no group is an error.

        Raises:
            WidthError: a number below 1, or a pattern that matches nothing.
        """
        for policy in (divisor, minimum):
            for pattern, value in ({"": policy} if isinstance(policy, int) else policy).items():
                if value < 1:
                    raise WidthError(
                        f"rounding policy '{pattern}': {value} counts channels and is at least 1."
                        if pattern
                        else f"divisor={divisor}, minimum={minimum}: both count channels and are at least 1."
                    )
                if pattern and strict and not any(fnmatch.fnmatchcase(n, pattern) for n in self.names):
                    raise WidthError(unknown_name("channel group in a rounding policy", pattern, self.names))
        groups = tuple(
            replace(g, divisor=policy_of_group(divisor, g.name), minimum=policy_of_group(minimum, g.name))
            for g in self.groups
        )
        return replace(self, groups=groups, divisor=divisor, minimum=minimum)

    def uniform(self, multiplier: float) -> Width:
        """The same share of every group, rounded by the group's policy.

        Raises:
            WidthError: outside (0, 1].
        """
        share = check_multiplier(multiplier)
        return Width(names=self.names, kept=tuple(g.round(share) for g in self.groups))

    def width(
        self,
        channels: Mapping[str, int | float | Sequence[int]] | Sequence[int],
        *,
        default: float | Width = 1.0,
    ) -> Width:
        """A width from channels (int), shares (float) or lists of units, per group name or glob pattern.

        Args:
            channels: later entries win; groups not named take `default`. Or a list with the channels of every group, in
                the order of `groups`.
            default: a multiplier or a Width.

        Raises:
            WidthError: unknown group, or a number the group cannot take.
        """
        if not isinstance(channels, Mapping):
            if len(channels) != len(self.groups):
                raise WidthError(
                    f"a list of channels needs one number for each of the {len(self.groups)} channel groups of this network; "
                    f"got {len(channels)}. print(net.space) shows the groups in their order."
                )
            channels = dict(zip(self.names, channels, strict=True))
        # {"layer1.*": 0.5, "layer1.0.conv1": 48, "fc": [0, 2, 5]}: half of every group of layer1, but 48 channels of one of
        # them, and three units of fc by number; all other groups as in `default`.
        base = default if isinstance(default, Width) else self.uniform(default)
        kept = list(base.kept)
        indices: list[tuple[int, ...] | None] = list(base.indices or [None] * len(kept))
        for pattern, value in channels.items():
            hits = (
                [self._index[pattern]]
                if pattern in self._index
                else [i for i, n in enumerate(self.names) if fnmatch.fnmatchcase(n, pattern)]
            )
            if not hits:
                raise WidthError(
                    unknown_name("channel group", pattern, self.names) + ". print(net.space) lists them."
                )
            for i in hits:
                kept[i], indices[i] = self._units(self.groups[i], value)
        unit_lists = tuple(indices) if any(u is not None for u in indices) else None
        return Width(names=self.names, kept=tuple(kept), indices=unit_lists)

    def _units(
        self, group: ChannelGroup, value: int | float | Sequence[int]
    ) -> tuple[int, tuple[int, ...] | None]:
        if isinstance(value, str | bool):
            raise WidthError(
                f"group '{group.name}' cannot have {value!r} channels: give a number, a share or a list of units."
            )
        if isinstance(value, float):
            return group.round(check_multiplier(value)), None
        if isinstance(value, int | np.integer):
            units, remainder = divmod(int(value), group.unit)
            if remainder or not 1 <= units <= group.size:
                steps = "" if group.unit == 1 else f" in multiples of {group.unit}"
                raise WidthError(
                    f"group '{group.name}' cannot have {value} channels: it takes 1 to {group.channels}{steps}."
                )
            return units, None
        indices = tuple(sorted({int(v) for v in value}))
        if not indices or indices[0] < 0 or indices[-1] >= group.size or len(indices) != len(list(value)):
            raise WidthError(
                f"group '{group.name}' cannot keep units {list(value)}: give different numbers from 0 to {group.size - 1}."
            )
        return len(indices), None if indices == tuple(range(len(indices))) else indices

    def check(self, width: Width) -> Width:
        """`width` if it belongs to this space. Groups may be empty, as pruning leaves them; views refuse those.

        Raises:
            WidthError: other groups, or numbers out of range.
        """
        if width.names != self.names:
            raise WidthError(
                f"this width has {len(width)} groups of another network; this one has {len(self.groups)}: {self.names[:3]}..."
            )
        for g, k in zip(self.groups, width.kept, strict=True):
            if not 0 <= k <= g.size:
                raise WidthError(f"group '{g.name}' cannot keep {k} units: it takes 0 to {g.size}.")
        if width.indices is not None:
            self._check_indices(width)
        return width

    def _check_indices(self, width: Width) -> None:
        assert width.indices is not None
        if len(width.indices) != len(self.groups):
            raise WidthError(
                f"this width chooses units of {len(width.indices)} groups; the network has {len(self.groups)}."
            )
        for g, k, units in zip(self.groups, width.kept, width.indices, strict=True):
            if units is None:
                continue
            rising = all(a < b for a, b in pairwise(units))
            if len(units) != k or not rising or (units and (units[0] < 0 or units[-1] >= g.size)):
                raise WidthError(
                    f"group '{g.name}' cannot keep the {k} units {list(units[:8])}: they are rising numbers from 0 to {g.size - 1}."
                )

    def axis(self, tensor: str, dim: int) -> Axis | None:
        """What an axis of a parameter or buffer ("layer1.0.conv1.weight", 0) consists of; None where it stays at all widths."""
        axes = self.axes.get(tensor, ())
        return axes[dim] if dim < len(axes) else None

    def kept(self, tensor: str, dim: int, width: Width) -> np.ndarray | None:
        """(positions,) bool: what a width keeps along an axis of a parameter or buffer; None where it stays as it is."""
        axis = self.axis(tensor, dim)
        if axis is None:
            return None
        # Two positions per unit, units 0 1 2 3, of which the width keeps 0 and 2: 1 1 0 0 1 1 0 0.
        group, unit = spelled_out(axis)
        kept = group < 0
        for g in {r.group for r in axis if r.group >= 0}:
            kept |= (group == g) & np.isin(unit, np.asarray(width.units(g), dtype=np.int64))
        return kept

    def sample(
        self, generator: torch.Generator, *, low: float = 0.0, high: float = 1.0, uniform: bool = False
    ) -> Width:
        """A random width: shares drawn uniformly from [low, high], one per group (or one for all)."""
        shares = torch.rand(1 if uniform else len(self.groups), generator=generator, dtype=torch.float64)
        vector = (low + (high - low) * shares).clamp(1e-9, 1.0).tolist()
        return self.from_vector(vector * len(self.groups) if uniform else vector)

    def from_vector(self, vector: Sequence[float]) -> Width:
        """A width from one share in [0, 1] per group; 0 is the group's minimum."""
        if len(vector) != len(self.groups):
            raise WidthError(
                f"a width vector of this network has {len(self.groups)} entries, one per group; got {len(vector)}."
            )
        shares = [float(v) for v in vector]
        if any(not 0.0 <= s <= 1.0 for s in shares):
            raise WidthError(f"entries of a width vector lie in [0, 1]; got {min(shares)} to {max(shares)}.")
        return Width(
            names=self.names,
            kept=tuple(g.round(max(s, 1e-9)) for g, s in zip(self.groups, shares, strict=True)),
        )

    def to_vector(self, width: Width) -> list[float]:
        """The share of every group that `width` keeps; `from_vector` gives `width` back if it obeys the rounding."""
        return [k / g.size for g, k in zip(self.groups, self.check(width).kept, strict=True)]

    def channels(self, width: Width) -> dict[str, int]:
        """Active channels per group."""
        return {g.name: k * g.unit for g, k in zip(self.groups, self.check(width).kept, strict=True)}

    @cached_property
    def unused(self) -> frozenset[str]:
        """Parameters and buffers that the forward on the example inputs did not use."""
        return frozenset(f.tensor for f in self.frozen if f.reason.startswith(Frozen.UNUSED))

    def to_json(self) -> str:
        data = {name: value for name, value in asdict(self).items() if name != "_index"}
        return json.dumps(packed(data), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ChannelSpace:
        d = json.loads(text)
        return ChannelSpace(
            groups=tuple(
                ChannelGroup(**{**g, "writers": tuple(g["writers"]), "readers": tuple(g["readers"])})
                for g in d["groups"]
            ),
            axes={n: tuple(None if a is None else runs_of(a) for a in axes) for n, axes in d["axes"].items()},
            attributes=tuple(map(attribute_of, d["attributes"])),
            numbers=tuple(map(number_of, d.get("numbers", ()))),
            terms=tuple(map(term_of, d["terms"])),
            frozen=tuple(Frozen(**f) for f in d["frozen"]),
            unknown=tuple(d["unknown"]),
            readers=tuple((n, dim) for n, dim in d["readers"]) if d.get("readers") is not None else None,
            tied=tuple((n, dim) for n, dim in d.get("tied", ())),
            upstream={n: tuple(g) for n, g in d.get("upstream", {}).items()},
            freeze=tuple(d.get("freeze", ())),
            free_outputs=tuple(d.get("free_outputs", ())),
            divisor=d.get("divisor", 1),
            minimum=d.get("minimum", 1),
        )

    def __str__(self) -> str:
        return show(self.groups, self.frozen, self.unknown)
