"""Pruning as much as a budget takes: bisection along a ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import torch

from anywidth.cost.budget import Budget, Kind, parse
from anywidth.cost.latency import measure
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.prune.ranking import Plan, Ranking
from anywidth.space.width import Width
from anywidth.tracing.trace import call

_LATENCY_STEPS = 8


def within_budget(net: Elastic, ranking: Ranking, budget: str, max_ratio: float) -> Plan:
    """The plan that removes least and meets the budget: bisection over the number of channels that go."""
    strict = ranking.config.empty == "error"
    # With empty="error" the bisection would stop at the first ratio that empties a group, although smaller ratios may meet the
    # budget; so groups are protected during the search, and only the plan that is returned must do without.
    if strict:
        ranking = ranking.protecting()
    latency = _cost(net, "latency") if budget.startswith("latency") else None
    limit = _parsed(net, budget, latency)
    cost = latency or _cost(net, limit.kind)
    label, allowed = next(iter(limit.limits.items()))
    full_cost = cost(net.space.full)
    if full_cost <= allowed:
        raise WidthError(
            f"prune: budget {label}: the whole network costs {full_cost:g} already, no more than {allowed:g}"
        )
    narrowest_plan = ranking.at(min(max_ratio, 1.0 - 0.5 / ranking.judged))
    narrowest_cost = cost(narrowest_plan.width)
    if narrowest_cost > allowed:
        raise WidthError(
            f"prune: budget {label} = {allowed:g} cannot be met: from {narrowest_cost:g} (all that ratio and limits allow is gone) to {full_cost:g} can be had"
        )
    # One step per judged channel; a latency has to be measured, and has noise, so there 256 steps are enough: about 8
    # measurements. Ratio (k + 0.5) / steps instead of k / steps, so that floor(T ratio) is k whatever the rounding of floats.
    # Invariant: `low` costs more than the budget allows, `high` does not.
    steps = ranking.judged if limit.kind != "latency" else 2**_LATENCY_STEPS
    low, high, best = 0, max(1, int(max_ratio * steps)), narrowest_plan
    while high - low > 1:
        middle = (low + high) // 2
        tried = ranking.at(min((middle + 0.5) / steps, 1.0))
        if cost(tried.width) <= allowed:
            high, best = middle, tried
        else:
            low = middle
    if strict and best.protected:
        raise WidthError(
            f"prune: budget {label} would take all channels of group '{best.protected[0]}'; use max_per_layer below 1, or "
            "empty='keep' or 'remove'"
        )
    if ranking.config.scope == "global" or limit.kind == "latency":
        return best
    before = ranking.at((low + 0.5) / steps)
    return _refilled(ranking, best, before, lambda width: cost(width) <= allowed)


def _refilled(ranking: Ranking, best: Plan, before: Plan, fits: Callable[[Width], bool]) -> Plan:
    """`best` with as many groups as fit at their width one step before, those of the most important channels first.

    Where groups are ranked apart, one step of the ratio narrows many of them at once, which may be far below the budget.
    """
    if best.removed or before.removed:
        return best

    def gain(i: int) -> float:
        back = set(before.width.units(i)) - set(best.width.units(i))
        return max(float(ranking.scores[i][u]) for u in back)

    # scope="layer", 3 groups of 64: the last step of the ratio took one channel of each, and the budget has room for two. The
    # groups whose lost channel scored highest get it back, as long as the cost allows.
    wider = [i for i in ranking.scores if before.width.kept[i] > best.width.kept[i]]
    width = best.width
    for i in sorted(wider, key=gain, reverse=True):
        tried = _with_group(width, before.width, i)
        width = tried if fits(tried) else width
    sizes = {i: ranking.space.groups[i].size for i in ranking.scores}
    back = {width.names[i] for i in wider if width.kept[i] > best.width.kept[i]}
    return dataclasses.replace(
        best,
        width=width,
        pruned=sum(size - width.kept[i] for i, size in sizes.items()),
        protected=tuple(name for name in best.protected if name not in back),
    )


def _with_group(width: Width, source: Width, group: int) -> Width:
    """`width` with one group as in `other`."""
    kept = list(width.kept)
    kept[group] = source.kept[group]
    indices: list[tuple[int, ...] | None] = list(width.indices or [None] * len(kept))
    indices[group] = None if source.indices is None else source.indices[group]
    return Width(
        names=width.names,
        kept=tuple(kept),
        indices=tuple(indices) if any(u is not None for u in indices) else None,
    )


def _parsed(net: Elastic, budget: str, latency: Callable[[Width], float] | None) -> Budget:
    _, _, limits = budget.partition("=")
    if latency is not None and limits.strip().endswith("%"):
        share = limits.strip()[:-1]
        try:
            seconds = float(share) / 100 * latency(net.space.full)
        except ValueError:
            raise WidthError(f"prune: budget {budget!r}: {share!r} is no number") from None
        return Budget(kind="latency", limits={budget: seconds})
    parsed = parse(budget, lambda cost_kind: _cost(net, cost_kind)(net.space.full))
    if len(parsed.limits) != 1:
        raise WidthError(
            f"prune: budget {budget!r} names {len(parsed.limits)} limits; give one, like macs=50%"
        )
    return parsed


def _cost(net: Elastic, cost_kind: Kind) -> Callable[[Width], float]:
    if cost_kind == "macs":
        return lambda width: float(net.macs(width))
    if cost_kind == "params":
        return lambda width: float(net.params(width))
    example = net.example()

    # Measured once each: a second measurement of the whole network may differ by more than the budget asks for.
    @cache
    @torch.inference_mode()
    def seconds(width: Width) -> float:
        small = net.extract(width).eval()
        return measure(lambda: call(small, example), warmup=2, repeats=9).median

    return seconds
