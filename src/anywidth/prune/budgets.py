"""Pruning as much as a budget takes: bisection along a ranking."""

from __future__ import annotations

from collections.abc import Callable

import torch

from anywidth.budget import Budget, Kind, parse
from anywidth.channels.trace import call
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.latency import measure
from anywidth.prune.ranking import Plan, Ranking
from anywidth.width import Width

_LATENCY_STEPS = 8


def within(net: Elastic, ranking: Ranking, budget: str, most: float) -> Plan:
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
