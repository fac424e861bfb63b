"""Which channels go: from importance to a `Width`."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from anywidth.budget import Budget, Kind, parse
from anywidth.channels.space import ChannelGroup, ChannelSpace
from anywidth.channels.trace import call
from anywidth.elastic import Elastic
from anywidth.empty import deadened
from anywidth.errors import WidthError
from anywidth.latency import measure
from anywidth.prune.importance import Criterion, Normalize, Reduce, Scores, scores
from anywidth.width import Width

Scope = Literal["global", "layer", "isomorphic"]
Rule = Literal["network-slimming", "torch7"]
Streams = Literal["coupled", "selection"]
Empty = Literal["keep", "remove", "error"]
_log = logging.getLogger(__name__)
_LATENCY_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pruning, and how it came about.

    Attributes:
        width: what is kept, for `net.extract`.
        ratio: share of the judged channels that the ranking was asked to remove.
        threshold: score of the best channel that the ranking removed, in global scope.
        pruned: channels that went; `judged`: channels that had a score.
        protected: groups that would have become empty and kept their best channel.
        removed: groups that did become empty.
    """

    width: Width
    ratio: float
    threshold: float | None
    pruned: int
    judged: int
    protected: tuple[str, ...]
    removed: tuple[str, ...]


def plan(net: Elastic, ratio: float | None = None, **options: Any) -> Width:
    """The width that pruning leaves; see `planned` for the options, and for more than the width.

    `net` is not touched: `net.extract(width)` is the compact network, `prune.compact` also makes up for what the removed
    channels had added.
    """
    return planned(net, ratio, **options).width


def planned(
    net: Elastic,
    ratio: float | None = None,
    *,
    criterion: Criterion | Mapping[str, Any] = "bn_scale",
    rule: Rule | None = None,
    scope: Scope = "global",
    streams: Streams = "coupled",
    max_per_layer: float = 1.0,
    minimum: int = 1,
    round_to: int = 1,
    empty: Empty = "keep",
    budget: str | None = None,
    positional: bool = False,
    reduce: Reduce = "mean",
    normalize: Normalize | None = None,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
) -> Plan:
    """Choose the channels to keep.

    Args:
        net: its weights decide; nothing of it changes.
        ratio: share in (0, 1) of the judged channels to remove. A channel of a group counts once, however many layers
            write it. With `budget`, at most this share goes.
        criterion: a name of `scores`, or your own scores: group name -> one number per unit, larger is more important.
        rule: how ties and the position count. None: exactly floor(T ratio) channels go, of equal ones the first.
            "network-slimming": a channel stays if its score is strictly greater than the one at 0-based position
            floor(T ratio) of the sorted scores, so that without ties floor(T ratio) + 1 go and all ties go (PyTorch
            code of Network Slimming); "torch7": the same with 1-based position floor(T ratio) (its Lua code).
        scope: "global": one ranking of all channels; "layer": the ratio holds in every group; "isomorphic": one ranking
            for groups of equal structure (Fang et al., Isomorphic Pruning, arXiv 2407.04616).
        streams: "coupled": channels of residual and dense streams go in all layers that share them; "selection": streams
            stay, and batch norms that read them choose a subset (the published Network Slimming).
        max_per_layer: largest share of a group that may go (0.5 in the paper's multi-pass scheme).
        minimum: fewest channels of a group that stay.
        round_to: kept channels are rounded up to multiples of this, as far as the group has them.
        empty: a group that would lose everything: "keep": it keeps `minimum` channels, and a warning names it; "remove":
            it becomes empty where all that makes it can be left out, as the masked network behaves; "error".
        budget: "macs=50%", "params=2M" or "latency=5ms": prune as much as it takes, in the order of the ranking.
        positional: also narrow groups whose channels the model routes by position, to a prefix; else they stay.
        reduce, normalize, batches, seed: of `scores`.

    Raises:
        WidthError: a ratio outside (0, 1), unknown names, scores that are all equal, a budget that cannot be met (with the
            reachable range), a group left empty with empty="error".

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, arXiv 1708.06519, sec. 3.
    """
    _check(ratio, rule, scope, streams, max_per_layer, minimum, round_to, empty, budget)
    target = net.selection() if streams == "selection" else net
    if isinstance(criterion, Mapping):
        found = _own_scores(target.space, criterion)
    else:
        found = scores(target, criterion, reduce=reduce, normalize=normalize, batches=batches, seed=seed)
    ranking = _Ranking(target.space, found, scope, rule, max_per_layer, minimum, round_to, empty, positional)
    if budget is not None:
        made = _within(target, ranking, budget, 1.0 if ratio is None else ratio)
    else:
        assert ratio is not None
        made = ranking.at(ratio)
    if made.protected:
        _log.warning(
            "prune: %d groups would have become empty and keep %d channels: %s",
            len(made.protected), minimum, ", ".join(made.protected[:5]),
        )  # fmt: skip
    return made


class _Ranking:
    """Judged channels in the order in which they go."""

    def __init__(
        self,
        space: ChannelSpace,
        found: Scores,
        scope: Scope,
        rule: Rule | None,
        max_per_layer: float,
        minimum: int,
        round_to: int,
        empty: Empty,
        positional: bool,
    ) -> None:
        self.space, self.scope = space, scope
        self.rule: Rule | None = rule
        self.max_per_layer, self.minimum, self.round_to, self.empty = max_per_layer, minimum, round_to, empty
        self.scores = {
            i: found[g.name]
            for i, g in enumerate(space.groups)
            if g.name in found and (g.permutable or positional)
        }
        if not self.scores:
            raise WidthError("prune: no channel group of this network can be pruned by this criterion")
        values = np.concatenate(list(self.scores.values()))
        if not np.isfinite(values).all():
            raise WidthError(
                "prune: some scores are not finite; the weights (or gradients) hold NaN or infinity"
            )
        if values.size > 1 and np.ptp(values) == 0:
            raise WidthError(
                f"prune: all {values.size} scores equal {values[0]:g}, so nothing tells channels apart; train first, for "
                "bn_scale with train.sparsity.l1, or use another criterion"
            )
        self.judged = int(values.size)

    def at(self, ratio: float) -> Plan:
        """The plan that removes this share."""
        gone: dict[int, np.ndarray] = {}
        threshold = None
        for members in self._classes():
            values = np.concatenate([self.scores[i] for i in members])
            going, threshold = _going(values, ratio, self.rule)
            for i, part in zip(
                members, np.split(going, np.cumsum([self.scores[i].size for i in members])[:-1]), strict=True
            ):
                gone[i] = part
        protected, removed = [], []
        kept: list[int] = [g.size for g in self.space.groups]
        indices: list[tuple[int, ...] | None] = [None] * len(kept)
        for i, part in gone.items():
            group = self.space.groups[i]
            stays = ~part
            if not stays.any():
                if self.empty == "error":
                    raise WidthError(
                        f"prune: group '{group.name}' would lose all of its {group.size} channels; use a smaller ratio, "
                        "max_per_layer below 1, or empty='keep' or 'remove'"
                    )
                if self.empty == "remove" and _removable(group):
                    removed.append(group.name)
                    kept[i], indices[i] = 0, ()
                    continue
                protected.append(group.name)
            units = self._held(group, self.scores[i], stays)
            kept[i] = len(units)
            indices[i] = units if group.permutable and units != tuple(range(len(units))) else None
        chosen = tuple(indices) if any(u is not None for u in indices) else None
        width = Width(names=self.space.names, kept=tuple(kept), indices=chosen)
        if removed:
            width = deadened(self.space, width)
        gone_units = sum(self.space.groups[i].size - width.kept[i] for i in self.scores)
        return Plan(
            width=width,
            ratio=ratio,
            threshold=threshold if self.scope == "global" else None,
            pruned=gone_units,
            judged=self.judged,
            protected=tuple(protected),
            removed=tuple(removed),
        )

    def _classes(self) -> list[list[int]]:
        """Groups that are ranked together."""
        if self.scope == "global":
            return [list(self.scores)]
        if self.scope == "layer":
            return [[i] for i in self.scores]
        classes: dict[Any, list[int]] = {}
        shapes = structures(self.space)
        for i in self.scores:
            classes.setdefault(shapes[i], []).append(i)
        return list(classes.values())

    def _held(self, group: ChannelGroup, values: np.ndarray, stays: np.ndarray) -> tuple[int, ...]:
        """Units that stay once the limits of the group are heeded, the best ones."""
        quantum = max(1, math.ceil(self.round_to / group.unit))
        least = max(
            1, math.ceil(self.minimum / group.unit), group.size - int(group.size * self.max_per_layer + 1e-9)
        )
        count = max(int(stays.sum()), min(least, group.size))
        count = min(-(-count // quantum) * quantum, group.size)
        best = np.argsort(-values, kind="stable")
        first = np.concatenate(
            [best[stays[best]], best[~stays[best]]]
        )  # ties of a rule are broken by it, not here
        return tuple(sorted(first[:count].tolist()))


def _going(values: np.ndarray, ratio: float, rule: Rule | None) -> tuple[np.ndarray, float]:
    """Which channels go, and the largest score among those that the ranking removes."""
    position = int(values.size * ratio)
    ordered = np.sort(values)
    if rule is None:
        going = np.zeros(values.size, bool)
        going[np.argsort(values, kind="stable")[:position]] = True
        return going, float(ordered[max(position - 1, 0)])
    if rule == "torch7":
        position -= 1
        if position < 0:
            raise WidthError(
                f"prune: rule 'torch7' removes nothing at ratio {ratio:g} of {values.size} channels"
            )
    threshold = ordered[min(position, values.size - 1)]
    return values <= threshold, float(threshold)


def _removable(group: ChannelGroup) -> bool:
    return group.permutable and group.unit == 1


def structures(space: ChannelSpace) -> list[tuple[Any, ...]]:
    """What every group is attached to, apart from sizes: kinds of tensors, axes, and how many of them."""
    found: list[list[tuple[Any, ...]]] = [[] for _ in space.groups]
    for name, axes in space.axes.items():
        kind = name.rpartition(".")[2]
        for dim, axis in enumerate(axes):
            for g in {r.group for r in axis or () if r.group >= 0}:
                found[g].append((kind, len(axes), dim))
    return [tuple(sorted(rows)) for rows in found]


def _within(net: Elastic, ranking: _Ranking, budget: str, most: float) -> Plan:
    """The plan that removes least and meets the budget: bisection over the number of channels that go."""
    limit = _parsed(net, budget)
    cost = _cost(net, limit.kind)
    label, allowed = next(iter(limit.limits.items()))
    widest = cost(net.space.full)
    if widest <= allowed:
        raise WidthError(
            f"prune: budget {label}: the whole network costs {widest:g} already, no more than {allowed:g}"
        )
    last = ranking.at(min(most, 1.0 - 0.5 / ranking.judged))
    least = cost(last.width)
    if least > allowed:
        raise WidthError(
            f"prune: budget {label} = {allowed:g} cannot be met: from {least:g} (everything that may go is gone) to {widest:g} can be had"
        )
    steps = ranking.judged if limit.kind != "latency" else 2**_LATENCY_STEPS
    low, high, best = 0, max(1, int(most * steps)), last  # `low` is too dear, `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        tried = ranking.at(min((middle + 0.5) / steps, 1.0))
        if cost(tried.width) <= allowed:
            high, best = middle, tried
        else:
            low = middle
    return best


def _parsed(net: Elastic, budget: str) -> Budget:
    kind, _, limits = budget.partition("=")
    if kind == "latency" and limits.strip().endswith("%"):
        share = limits.strip()[:-1]
        try:
            seconds = float(share) / 100 * _cost(net, "latency")(net.space.full)
        except ValueError:
            raise WidthError(f"prune: budget {budget!r}: {share!r} is no number") from None
        return Budget(kind="latency", limits={budget: seconds})
    found = parse(budget, lambda kind: _cost(net, kind)(net.space.full))
    if len(found.limits) != 1:
        raise WidthError(
            f"prune: budget {budget!r} names {len(found.limits)} limits; give one, like macs=50%"
        )
    return found


def _cost(net: Elastic, kind: Kind) -> Callable[[Width], float]:
    if kind == "macs":
        return lambda width: float(net.macs(width))
    if kind == "params":
        return lambda width: float(net.params(width))
    example = net.example()

    @torch.inference_mode()
    def seconds(width: Width) -> float:
        small = net.extract(width).eval()
        return measure(lambda: call(small, example), warmup=2, repeats=9).median

    return seconds


def _own_scores(space: ChannelSpace, given: Mapping[str, Any]) -> Scores:
    groups = {g.name: g for g in space.groups}
    found = {}
    for name, values in given.items():
        if name not in groups:
            raise WidthError(
                f"prune: scores for '{name}', which is no channel group; print(net.space) shows them"
            )
        row = np.asarray(values, np.float64)
        if row.shape != (groups[name].size,):
            raise WidthError(
                f"prune: group '{name}' has {groups[name].size} units; got scores of shape {row.shape}"
            )
        found[name] = row
    return found


def _check(
    ratio: float | None,
    rule: Rule | None,
    scope: Scope,
    streams: Streams,
    max_per_layer: float,
    minimum: int,
    round_to: int,
    empty: Empty,
    budget: str | None,
) -> None:
    if ratio is None and budget is None:
        raise WidthError("prune: say how much goes: a ratio in (0, 1), or a budget like 'macs=50%'")
    if ratio is not None and not 0 < ratio < 1:
        raise WidthError(f"prune: ratio = {ratio}: the share of channels to remove lies in (0, 1)")
    choices: Sequence[tuple[str, Any, tuple[Any, ...]]] = (
        ("rule", rule, (None, *get_args(Rule))),
        ("scope", scope, get_args(Scope)),
        ("streams", streams, get_args(Streams)),
        ("empty", empty, get_args(Empty)),
    )
    for what, value, names in choices:
        if value not in names:
            raise WidthError(f"prune: unknown {what} {value!r}; use one of {', '.join(map(str, names))}")
    if not 0 < max_per_layer <= 1:
        raise WidthError(
            f"prune: max_per_layer = {max_per_layer}: the largest share of a layer that may go lies in (0, 1]"
        )
    if minimum < 1 or round_to < 1:
        raise WidthError(
            f"prune: minimum = {minimum}, round_to = {round_to}: both count channels and are at least 1"
        )


def as_prefix(width: Width) -> Width:
    """The width with as many units of every group, the first ones: uniform costs, other channels."""
    return dataclasses.replace(width, indices=None)
