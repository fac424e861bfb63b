"""From importance to a `Width`: the front door of pruning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.prune.budgets import within_budget
from anywidth.prune.importance import Criterion, Normalize, Reduce, Scores, Source, scores
from anywidth.prune.ranking import Empty, Plan, Ranking, Rule, Scope
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width

Streams = Literal["coupled", "selection"]
_log = logging.getLogger(__name__)


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
    criterion: str | Criterion | Callable[[Source], np.ndarray] | Mapping[str, Any] = "bn_scale",
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
        criterion: as for `scores`, or your own scores: group name -> one number per unit, larger is more important.
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
        reduce, normalize, batches, seed: of `scores`.

    Raises:
        WidthError: a ratio outside (0, 1), unknown names, scores that are all equal, a budget that cannot be met (with the
            reachable range), a group left empty with empty="error".

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, arXiv 1708.06519, sec. 3.
    """
    _check(ratio, rule, scope, streams, max_per_layer, minimum, round_to, empty, budget)
    # scores: group name -> (units,); ranking: which units go at a ratio; with a budget, the smallest ratio that meets it.
    target = net.selection() if streams == "selection" else net
    if isinstance(criterion, Mapping):
        group_scores = _own_scores(target.space, criterion)
    else:
        group_scores = scores(
            target, criterion, reduce=reduce, normalize=normalize, batches=batches, seed=seed
        )
    ranking = Ranking(
        target.space, group_scores, scope, rule, max_per_layer, minimum, round_to, empty, positional
    )
    if budget is not None:
        pruning = within_budget(target, ranking, budget, 1.0 if ratio is None else ratio)
    else:
        assert ratio is not None
        pruning = ranking.at(ratio)
    if pruning.protected:
        _log.warning(
            "prune: %d groups would have become empty and keep %d channels: %s",
            len(pruning.protected), minimum, ", ".join(pruning.protected[:5]),
        )  # fmt: skip
    return pruning


def _own_scores(space: ChannelSpace, custom_scores: Mapping[str, Any]) -> Scores:
    groups = {g.name: g for g in space.groups}
    checked_scores = {}
    for name, values in custom_scores.items():
        if name not in groups:
            raise WidthError(
                f"prune: scores for '{name}', which is no channel group; print(net.space) shows them"
            )
        row = np.asarray(values, np.float64)
        if row.shape != (groups[name].size,):
            raise WidthError(
                f"prune: group '{name}' has {groups[name].size} units; got scores of shape {row.shape}"
            )
        checked_scores[name] = row
    return checked_scores


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
    for what, value in (("ratio", ratio), ("max_per_layer", max_per_layer)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise WidthError(f"prune: {what} = {value!r}: expected a number")
    for what, value in (("minimum", minimum), ("round_to", round_to)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise WidthError(f"prune: {what} = {value!r}: expected a whole number of channels")
    if budget is not None and not isinstance(budget, str):
        raise WidthError(f"prune: budget = {budget!r}: expected text like 'macs=50%'")
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
