"""Searchers by name: ours, or the user's own as "package.module:NAME"."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from anywidth.cost.budget import Budget
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.import_path import call_with, find
from anywidth.search.bayes import Bayes
from anywidth.search.driver import Searcher
from anywidth.search.evolve import Evolve
from anywidth.search.greedy import Greedy
from anywidth.search.random_widths import Random

MakeSearcher = Callable[..., Searcher]
"""Takes those of `net`, `budget`, `kind`, `costs`, `evals`, `limit`, `low`, `high`, `seed`, `together` and of the options of
our searchers that it names, and options of its own. One that needs a budget has no default for it."""


def _random(net: Elastic, *, kind: Any, evals: int = 1000, low: float, high: float, budget: Budget | None = None, seed: int = 0) -> Random:  # fmt: skip
    return Random(net, kind=kind, evals=evals, low=low, high=high, budget=budget, seed=seed)


def _evolve(
    net: Elastic, budget: Budget, *, evals: int | None = None, population: int = 32, generations: int = 10, seed: int = 0
) -> Evolve:  # fmt: skip
    if evals is not None:
        population, generations = _generations(evals, len(budget.limits), population)
    return Evolve(
        net, budget, population=population, generations=generations, parents=min(8, population), seed=seed
    )


def _generations(evals: int, limits: int, population: int) -> tuple[int, int]:
    """Population and generations for each limit, at most as many widths in all as `evals` says."""
    # 100 widths for 5 limits are 20 each: a population of 6 lasts for its first generation and two more.
    per_limit = evals // limits
    if per_limit < 2:
        raise WidthError(
            f"search: --evals {evals} is less than two widths for each of {limits} limits; measure more, or "
            "name fewer limits with --budget"
        )
    population = max(2, min(population, per_limit))
    return population, max(0, per_limit // population - 1)


METHODS: Mapping[str, MakeSearcher] = {
    "greedy": Greedy,
    "evolve": _evolve,
    "bayes": partial(Bayes, evals=1000, history=200),
    "random": _random,
}


def method_of(name: str) -> MakeSearcher:
    """What makes a searcher.

    Raises:
        RecipeError: no such method, module or function.
    """
    return find("method of search", name, METHODS)


def takes(name: str, argument: str) -> bool:
    """Whether a method takes one of the options of a search."""
    return argument in inspect.signature(method_of(name)).parameters


def needs_budget(name: str) -> bool:
    """Whether a method searches within limits only; others can give a whole curve."""
    budget = inspect.signature(method_of(name)).parameters.get("budget")
    return budget is not None and budget.default is inspect.Parameter.empty


def make_searcher(name: str, offered: Mapping[str, Any], options: Mapping[str, Any]) -> Searcher:
    """The searcher of a method.

    Args:
        offered: of these it takes those that it names; what is None stays its own default.
        options: all of these.

    Raises:
        RecipeError: no such method, or options that it does not take.
        WidthError: options that it refuses.
    """
    values = {key: value for key, value in offered.items() if value is not None}
    return call_with("method of search", name, method_of(name), values, options)
