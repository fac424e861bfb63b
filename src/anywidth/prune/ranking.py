"""Which channels go: the ranking of scores, and the limits of a group."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anywidth.errors import WidthError
from anywidth.graph.emptied_groups import deadened
from anywidth.prune.importance import Scores
from anywidth.prune.plan_config import PlanConfig, Rule
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.groups import ChannelGroup
from anywidth.space.width import Width


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


class Ranking:
    """Judged channels in the order in which they go."""

    def __init__(self, space: ChannelSpace, group_scores: Scores, config: PlanConfig) -> None:
        self.space, self.config = space, config
        self.scores = {
            i: group_scores[g.name]
            for i, g in enumerate(space.groups)
            if g.name in group_scores and (g.permutable or config.positional)
        }
        if not self.scores:
            raise WidthError("prune: no channel group of this network can be pruned by this criterion")
        scores = np.concatenate(list(self.scores.values()))
        if not np.isfinite(scores).all():
            raise WidthError(
                "prune: some scores are not finite; the weights (or gradients) hold NaN or infinity"
            )
        if scores.size > 1 and np.ptp(scores) == 0:
            raise WidthError(
                f"prune: all {scores.size} scores equal {scores[0]:g}, so nothing tells channels apart; train first, for "
                "bn_scale with train.sparsity.l1, or use another criterion"
            )
        self.judged = int(scores.size)

    def protecting(self) -> Ranking:
        """The same ranking, in which groups that would become empty keep their best channels."""
        ranking = copy.copy(self)
        ranking.config = replace(self.config, empty="keep")
        return ranking

    def at(self, ratio: float) -> Plan:
        """The plan that removes this share."""
        # global: all scores in one vector, cut once, and split into the groups again; layer: a vector per group.
        #     a = 0.1 0.9, b = 0.2 0.3 0.8, ratio 0.6 -> of 5 the 3 smallest go: a keeps unit 1, b keeps unit 2
        gone: dict[int, np.ndarray] = {}
        threshold = None
        for members in self._classes():
            scores = np.concatenate([self.scores[i] for i in members])
            going, threshold = _going(scores, ratio, self.config.rule)
            for i, mask in zip(
                members, np.split(going, np.cumsum([self.scores[i].size for i in members])[:-1]), strict=True
            ):
                gone[i] = mask
        protected, removed = [], []
        kept: list[int] = [g.size for g in self.space.groups]
        indices: list[tuple[int, ...] | None] = [None] * len(kept)
        for i, mask in gone.items():
            group = self.space.groups[i]
            stays = ~mask
            if not stays.any():
                if self.config.empty == "error":
                    raise WidthError(
                        f"prune: group '{group.name}' would lose all of its {group.size} channels; use a smaller ratio, "
                        "max_per_layer below 1, or empty='keep' or 'remove'"
                    )
                if self.config.empty == "remove" and _removable(group):
                    removed.append(group.name)
                    kept[i], indices[i] = 0, ()
                    continue
                protected.append(group.name)
            units = self._kept_units(group, self.scores[i], stays)
            kept[i] = len(units)
            indices[i] = units if group.permutable and units != tuple(range(len(units))) else None
        unit_lists = tuple(indices) if any(u is not None for u in indices) else None
        width = Width(names=self.space.names, kept=tuple(kept), indices=unit_lists)
        if removed:
            width = deadened(self.space, width)
        gone_units = sum(self.space.groups[i].size - width.kept[i] for i in self.scores)
        return Plan(
            width=width,
            ratio=ratio,
            threshold=threshold if self.config.scope == "global" else None,
            pruned=gone_units,
            judged=self.judged,
            protected=tuple(protected),
            removed=tuple(removed),
        )

    def _classes(self) -> list[list[int]]:
        """Groups that are ranked together."""
        if self.config.scope == "global":
            return [list(self.scores)]
        if self.config.scope == "layer":
            return [[i] for i in self.scores]
        classes: dict[Any, list[int]] = {}
        shapes = structures(self.space)
        for i in self.scores:
            classes.setdefault(shapes[i], []).append(i)
        return list(classes.values())

    def _kept_units(self, group: ChannelGroup, scores: np.ndarray, stays: np.ndarray) -> tuple[int, ...]:
        """Units that stay within the limits of the group: the best ones."""
        # 10 units, 3 of them stay, round_to 4: 4 units, the 3 and the best of the others. max_per_layer 0.5: at least 5,
        # rounded up to 8. The epsilon: 90 * 0.7 is 62.999... in floats, and must count as 63.
        quantum = max(1, math.ceil(max(self.config.round_to, group.divisor) / group.unit))
        min_units = max(
            1,
            math.ceil(max(self.config.minimum, group.minimum) / group.unit),
            group.size - int(group.size * self.config.max_per_layer + 1e-9),
        )
        count = max(int(stays.sum()), min(min_units, group.size))
        count = min(-(-count // quantum) * quantum, group.size)
        # All units that stay come before any that go, however the scores tie: a rule has broken ties already.
        best = np.argsort(-scores, kind="stable")
        preference = np.concatenate([best[stays[best]], best[~stays[best]]])
        return tuple(sorted(preference[:count].tolist()))


def _going(scores: np.ndarray, ratio: float, rule: Rule | None) -> tuple[np.ndarray, float]:
    """Which channels go, and the largest score among those that the ranking removes."""
    # Scores 0.1 0.2 0.2 0.3, ratio 0.5, position 2:
    #     None                 the 2 smallest go, of equal scores the first: 0.1 and one 0.2
    #     network-slimming     threshold ordered[2] = 0.2, and all up to it go: 0.1 and both 0.2
    #     torch7               threshold ordered[1] = 0.2: the same here, one fewer where there are no ties
    position = int(scores.size * ratio)
    ordered = np.sort(scores)
    if rule is None:
        going = np.zeros(scores.size, bool)
        going[np.argsort(scores, kind="stable")[:position]] = True
        return going, float(ordered[max(position - 1, 0)])
    if rule == "torch7":
        position -= 1
        if position < 0:
            raise WidthError(
                f"prune: rule 'torch7' removes nothing at ratio {ratio:g} of {scores.size} channels"
            )
    threshold = ordered[min(position, scores.size - 1)]
    return scores <= threshold, float(threshold)


def _removable(group: ChannelGroup) -> bool:
    return group.permutable and group.unit == 1


def structures(space: ChannelSpace) -> list[tuple[Any, ...]]:
    """What every group is attached to, apart from sizes: kinds of tensors, axes, and how many of them."""
    attachments: list[list[tuple[Any, ...]]] = [[] for _ in space.groups]
    for name, axes in space.axes.items():
        tensor_name = name.rpartition(".")[2]
        for dim, axis in enumerate(axes):
            for g in {r.group for r in axis or () if r.group >= 0}:
                attachments[g].append((tensor_name, len(axes), dim))
    return [tuple(sorted(rows)) for rows in attachments]
