"""Evolutionary search: the best networks within a budget are crossed and mutated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from anywidth.cost.budget import Budget, Costs, largest_uniform
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.search.front import Front, Member, undominated
from anywidth.search.group_steps import quantum
from anywidth.space.width import Width

_TRIES = 200


class Evolve:
    """For each limit in turn, generations of widths within it, filled up to it (others where these are all known).

    The first generation is the widest uniform width, its mutants and random widths; later ones are children of the best
    `parents`, three quarters by mutation and one by crossing. The best of an earlier (larger) limit are narrowed and compete too.

    Args:
        net: trained at random widths.
        budget: limits.
        population: widths of a generation.
        generations: after the first, for each limit.
        parents: the best, of all generations of a limit.
        mutate: probability that a group changes.
        seed: of all choices.

    Source: Real et al., arXiv 1802.01548, as used for networks within a budget in Cai et al., arXiv 1908.09791, section
    3.4; here for widths.
    """

    def __init__(
        self,
        net: Elastic,
        budget: Budget,
        *,
        population: int = 32,
        generations: int = 10,
        parents: int = 8,
        mutate: float = 0.2,
        seed: int = 0,
    ) -> None:
        if population < 2 or not 1 <= parents <= population or generations < 0 or not 0 < mutate <= 1:
            raise WidthError(
                f"search: expected population >= 2, 1 <= parents <= population, generations >= 0 and 0 < mutate <= 1, got "
                f"{population}, {parents}, {generations}, {mutate}"
            )
        self.net, self.budget, self.seed = net, budget, seed
        self.population, self.generations, self.parents, self.mutate = (
            population,
            generations,
            parents,
            mutate,
        )
        self.random = np.random.default_rng(seed)
        self.quanta = np.array([quantum(group) for group in net.space.groups])
        self.least, self.most = np.array(net.space.smallest.kept), np.array(net.space.full.kept)
        self.limits = list(budget.limits.items())
        self.limit = self.generation = 0
        self.seen: dict[Width, Member] = {}

    def identity(self) -> dict[str, Any]:
        return {
            "searcher": "evolve",
            "budget": self.budget.kind,
            "limits": self.budget.limits,
            "population": self.population,
            "generations": self.generations,
            "parents": self.parents,
            "mutate": self.mutate,
            "seed": self.seed,
            "groups": list(self.net.space.names),
            "sizes": self.most.tolist(),
        }

    def ask(self, costs: Costs) -> list[Width]:
        """The next generation, of widths that were not asked before."""
        while self.limit < len(self.limits):
            if self.generation <= self.generations and (widths := self._generation(costs)):
                return widths
            self.limit, self.generation = self.limit + 1, 0
        return []

    def _generation(self, costs: Costs) -> list[Width]:
        # Generation 0 of a limit: the widest uniform width, children of it and of the best widths found under larger limits,
        # random ones. Later generations: children of the best within the limit. A draw below 0.5 is a random width (generation
        # 0 only), below 0.75 a mutant, otherwise a cross. Known children are drawn again, at most 200 draws in all.
        _, limit = self.limits[self.limit]
        widths: dict[Width, None] = {}
        if self.generation == 0:
            uniform = largest_uniform(self.net, costs, limit)
            if uniform not in self.seen:
                widths[uniform] = None
            inside = [m.width for m in self.seen.values() if m.cost > limit]
            inside = sorted(inside, key=lambda w: self.seen[w].error)[: self.parents]
            parents = [np.array(w.kept) for w in [uniform, *inside]]
        else:
            ranked = sorted(
                (m for m in self.seen.values() if m.cost <= limit), key=lambda m: (m.error, m.cost)
            )
            parents = [np.array(m.width.kept) for m in ranked[: self.parents]]
        for _ in range(_TRIES):
            if len(widths) >= self.population:
                break
            for width in self._fitted(self._child(parents), costs, limit):
                if width not in self.seen and width not in widths:
                    widths[width] = None
                    break
        return list(widths)

    def _child(self, parents: list[np.ndarray]) -> np.ndarray:
        """Units of each group, not yet within the limit."""
        random, count = self.random, len(self.most)
        draw = random.random()
        if self.generation == 0 and draw < 0.5:
            return self._rounded(self.least + random.random(count) * (self.most - self.least))
        mother = parents[random.integers(len(parents))].copy()
        if draw < 0.75 or len(parents) < 2:
            changed = random.random(count) < self.mutate
            changed[random.integers(count)] = True
            steps = random.integers(1, 4, count) * random.choice([-1, 1], count) * self.quanta
            return np.clip(np.where(changed, mother + steps, mother), self.least, self.most)
        father = parents[random.integers(len(parents))]
        return np.where(random.random(count) < 0.5, mother, father)

    def _rounded(self, units: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(units / self.quanta).astype(int) * self.quanta, self.least, self.most)

    def _fitted(self, units: np.ndarray, costs: Costs, limit: float) -> list[Width]:
        """Narrowed in random groups until it meets the limit, then widened in random groups while it does.

        Returns:
            The wide one first, then the narrow one for where the wide one is known: none, where no width meets the limit.
        """
        # Every cost is a measurement there, and one group at a time would take hundreds: 40 steps of 7 % go down to 0.93^40 = 0.055.
        if self.budget.kind == "latency":
            for step in range(41):
                # From the child's own units each time: rounded again and again, 7 quanta would stay 7 (0.93 x 7 = 6.5).
                narrowed = np.maximum(self.least, self._rounded(units * 0.93**step)) if step else units
                if costs([self._width(narrowed)])[0] <= limit:
                    return [self._width(narrowed)]
            return []
        while costs([self._width(units)])[0] > limit:
            open_groups = np.flatnonzero(units > self.least)
            if not len(open_groups):
                return []
            group = self.random.choice(open_groups)
            units = units.copy()
            units[group] = max(self.least[group], units[group] - self.quanta[group])
        return [self._width(self._filled(units, costs, limit)), self._width(units)]

    def _filled(self, units: np.ndarray, costs: Costs, limit: float) -> np.ndarray:
        while True:
            wider = []
            for group in np.flatnonzero(units < self.most):
                widened = units.copy()
                widened[group] = min(self.most[group], units[group] + self.quanta[group])
                wider.append(widened)
            if not wider:
                return units
            fits = [
                u for u, c in zip(wider, costs([self._width(u) for u in wider]), strict=True) if c <= limit
            ]
            if not fits:
                return units
            units = fits[self.random.integers(len(fits))]

    def _width(self, units: np.ndarray) -> Width:
        return Width(names=self.net.space.names, kept=tuple(int(u) for u in units))

    def tell(self, widths: Sequence[Width], costs: Sequence[float], errors: Sequence[float]) -> None:
        """Remember the generation."""
        for width, cost, error in zip(widths, costs, errors, strict=True):
            macs, params = int(self.net.macs(width)), int(self.net.params(width))
            self.seen[width] = Member(label="", width=width, cost=cost, error=error, macs=macs, params=params)
        self.generation += 1

    def front(self) -> Front:
        """The best within each limit."""
        best = []
        for label, limit in reversed(self.limits):
            within = [m for m in self.seen.values() if m.cost <= limit]
            if not within:
                raise WidthError(f"budget {label}: no width was found that costs at most {limit:g}")
            fittest = min(within, key=lambda m: (m.error, m.cost))
            best.append(replace(fittest, label=label))
        provenance = {**self.identity(), "evaluated": len(self.seen)}
        return Front(members=tuple(best), budget=self.budget.kind, about=provenance)

    def explored(self) -> tuple[Member, ...]:
        """Of all widths that were evaluated those that none dominates, the cheapest first, labelled by their cost."""
        return tuple(replace(m, label=f"{m.cost:g}") for m in undominated(self.seen.values()))
