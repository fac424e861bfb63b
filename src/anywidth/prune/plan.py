"""From importance to a `Width`: the front door of pruning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.prune.budgets import within_budget
from anywidth.prune.criteria import Criterion, Source
from anywidth.prune.importance import Scores, scores
from anywidth.prune.plan_config import PlanConfig
from anywidth.prune.ranking import Plan, Ranking
from anywidth.settings import configured, takes_fields_of
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width

_log = logging.getLogger(__name__)


@takes_fields_of(PlanConfig)
def plan(net: Elastic, ratio: float | None = None, config: PlanConfig | None = None, **options: Any) -> Width:
    """The width that pruning leaves; see `planned` for the options, and for more than the width.

    `net` is not touched: `net.extract(width)` is the compact network, `prune.compact` also makes up for what the removed
    channels had added.
    """
    return planned(net, ratio, config, **options).width


@takes_fields_of(PlanConfig)
def planned(
    net: Elastic,
    ratio: float | None = None,
    config: PlanConfig | None = None,
    *,
    criterion: str | Criterion | Callable[[Source], np.ndarray] | Mapping[str, Any] = "bn_scale",
    batches: Iterable[Any] | None = None,
    **settings: Any,
) -> Plan:
    """Choose the channels to keep.

    Args:
        net: its weights decide; nothing of it changes.
        ratio: share in (0, 1) of the judged channels to remove. A channel of a group counts once, however many layers
            write it. With a `budget`, at most this share goes.
        config: ties, scope, limits and budget, of which `settings` may give some one by one.
        criterion: as for `scores`, or your own scores: group name -> one number per unit, larger is more important.
        batches: of `scores`.

    Raises:
        WidthError: a ratio outside (0, 1), unknown names, scores that are all equal, a budget that cannot be met (with the
            reachable range), a group left empty with empty="error".

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, arXiv 1708.06519, sec. 3.
    """
    config = configured(PlanConfig, config, settings)
    _check_ratio(ratio, config.budget)
    # scores: group name -> (units,); ranking: which units go at a ratio; with a budget, the smallest ratio that meets it.
    target = net.selection() if config.streams == "selection" else net
    if isinstance(criterion, Mapping):
        group_scores = _own_scores(target.space, criterion)
    else:
        group_scores = scores(
            target,
            criterion,
            reduce=config.reduce,
            normalize=config.normalize,
            batches=batches,
            seed=config.seed,
        )
    ranking = Ranking(target.space, group_scores, config)
    if config.budget is not None:
        pruning = within_budget(target, ranking, config.budget, 1.0 if ratio is None else ratio)
    else:
        assert ratio is not None
        pruning = ranking.at(ratio)
    if pruning.protected:
        _log.warning(
            "prune: %d groups would have become empty and keep %d channels: %s",
            len(pruning.protected), config.minimum, ", ".join(pruning.protected[:5]),
        )  # fmt: skip
    return pruning


def _check_ratio(ratio: float | None, budget: str | None) -> None:
    if ratio is None and budget is None:
        raise WidthError("prune: say how much goes: a ratio in (0, 1), or a budget like 'macs=50%'")
    if ratio is None:
        return
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise WidthError(f"prune: ratio = {ratio!r}: expected a number")
    if not 0 < ratio < 1:
        raise WidthError(f"prune: ratio = {ratio}: the share of channels to remove lies in (0, 1)")


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
