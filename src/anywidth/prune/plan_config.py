"""How much is pruned, and within which limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from anywidth.errors import WidthError
from anywidth.prune.importance import Normalize, Reduce

Scope = Literal["global", "layer", "isomorphic"]
Rule = Literal["network-slimming", "torch7"]
Empty = Literal["keep", "remove", "error"]
Streams = Literal["coupled", "selection"]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How channels are chosen.

    Attributes:
        rule: how ties and the position count. None: exactly floor(T ratio) channels go, of equal ones the first.
            "network-slimming": a channel stays if its score is strictly greater than the one at 0-based position
            floor(T ratio) of the sorted scores, so that without ties floor(T ratio) + 1 go and all ties go (PyTorch
            code of Network Slimming); "torch7": the same with 1-based position floor(T ratio) (its Lua code).
        scope: "global": one ranking of all channels; "layer": the ratio holds in every group; "isomorphic": one ranking
            for groups of equal structure (Fang et al., Isomorphic Pruning, arXiv 2407.04616).
        streams: "coupled": channels of residual and dense streams go in all layers that share them; "selection": streams
            stay, and batch norms that read them choose a subset (the published Network Slimming). Only bn_scale, random,
            uniform and your own scores judge such a choice; other criteria prune what lies between.
        max_per_layer: largest share of a group that may go (0.5 in the paper's multi-pass scheme).
        minimum: fewest channels of a group that stay (or the group's own minimum, if that is more).
        round_to: kept channels are rounded up to multiples of this (or of the group's divisor, if that is more), as far as
            the group has them.
        empty: a group that would lose everything: "keep": it keeps `minimum` channels, and a warning names it; "remove":
            it becomes empty where all that makes it can be left out, as the masked network behaves; "error".
        budget: "macs=50%", "params=2M" or "latency=5ms": prune as much as it takes, in the order of the ranking. With a scope
            other than "global", the last step of the ratio is taken in as many groups as it takes, not in all.
        positional: also narrow groups whose channels the model routes by position, to a prefix; else they stay.
        reduce, normalize, seed: of `scores`.

    Raises:
        WidthError: unknown names, or numbers out of range.
    """

    rule: Rule | None = None
    scope: Scope = "global"
    streams: Streams = "coupled"
    max_per_layer: float = 1.0
    minimum: int = 1
    round_to: int = 1
    empty: Empty = "keep"
    budget: str | None = None
    positional: bool = False
    reduce: Reduce = "mean"
    normalize: Normalize | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.max_per_layer, bool) or not isinstance(self.max_per_layer, int | float):
            raise WidthError(f"prune: max_per_layer = {self.max_per_layer!r}: expected a number")
        for what, value in (("minimum", self.minimum), ("round_to", self.round_to)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise WidthError(f"prune: {what} = {value!r}: expected a whole number of channels")
        if self.budget is not None and not isinstance(self.budget, str):
            raise WidthError(f"prune: budget = {self.budget!r}: expected text like 'macs=50%'")
        choices: Sequence[tuple[str, Any, tuple[Any, ...]]] = (
            ("rule", self.rule, (None, *get_args(Rule))),
            ("scope", self.scope, get_args(Scope)),
            ("streams", self.streams, get_args(Streams)),
            ("empty", self.empty, get_args(Empty)),
        )
        for what, value, names in choices:
            if value not in names:
                raise WidthError(f"prune: unknown {what} {value!r}; use one of {', '.join(map(str, names))}")
        if not 0 < self.max_per_layer <= 1:
            raise WidthError(
                f"prune: max_per_layer = {self.max_per_layer}: the largest share of a layer that may go lies in (0, 1]"
            )
        if self.minimum < 1 or self.round_to < 1:
            raise WidthError(
                f"prune: minimum = {self.minimum}, round_to = {self.round_to}: both count channels and are at least 1"
            )
