"""What a search of widths is asked for, and what of it does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args

from anywidth.cost.budget import Kind
from anywidth.errors import WidthError
from anywidth.search.methods import method_of, takes

_OF_METHODS = (
    "criterion", "steps", "population", "generations", "acquisition", "beta", "prior_points", "batch", "high", "ard", "seed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How widths are searched.

    Attributes:
        method: "greedy" (AutoSlim), "evolve", "bayes" (Joslim), "random", or your own as "package.module:NAME".
        objective: a cost (macs, params, latency) and a quality (error, loss), like "macs,error".
        budget: limits, like "macs=75%,50%" or "latency=5ms"; without any: the whole curve.
        within: of bayes: further limits for every width, like ("params=2M",).
        evals: of bayes, random and evolve: widths to measure, by default 1000.
        criterion: of greedy: "error" or "error_per_cost".
        steps: of greedy: steps that a channel group is cut into.
        population: of evolve: widths in a generation.
        generations: of evolve: generations for each limit.
        acquisition: of bayes: "optimistic", "reference" or "ehvi".
        beta: of bayes: squared width of the bound, in standard deviations.
        prior_points: of bayes: widths measured before there is a model.
        batch: of bayes: widths proposed at once.
        low: of bayes and random: smallest ratio of a group, by default `widths.min`.
        high: of bayes and random: largest ratio of a group.
        ard: of bayes: a length scale for every channel group.
        seed: of evolve, bayes and random.
        images: held-out images that decide, at most.
        batch_size: images that share batch-norm statistics.
        options: further arguments of the method.
    """

    method: str = "greedy"
    objective: str | None = None
    budget: str | None = None
    within: tuple[str, ...] = ()
    evals: int | None = None
    criterion: Any = "error"
    steps: int = 12
    population: int = 32
    generations: int = 10
    acquisition: Any = "optimistic"
    beta: float = 0.1
    prior_points: int = 20
    batch: int = 2
    low: float | None = None
    high: float = 1.0
    ard: bool = True
    seed: int = 0
    images: int = 2000
    batch_size: int = 250
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_objective(text: str | None, budget: str | None) -> tuple[Kind, str]:
    """Kind of the cost, and "error" or "loss".

    Raises:
        WidthError: something else, or a budget of another cost.
    """
    budget_kind = None if budget is None else budget.partition("=")[0]
    # An unknown kind of budget is refused with its limits, later.
    default = budget_kind if budget_kind in get_args(Kind) else "macs"
    cost_kind, comma, quality = (text or f"{default},error").partition(",")
    if not comma or cost_kind not in get_args(Kind) or quality not in ("error", "loss"):
        raise WidthError(
            f"objective {text!r}: expected a cost (macs, params, latency) and a quality (error, loss), like macs,error"
        )
    if budget_kind is not None and text is not None and budget_kind != cost_kind:
        raise WidthError(f"search: the budget {budget!r} limits another cost than the objective {text!r} has")
    return cost_kind, quality  # pyright: ignore[reportReturnType]


def check_search_options(options: SearchOptions) -> None:
    """
    Raises:
        RecipeError: an unknown method.
        WidthError: options of another one.
    """
    method_of(options.method)
    for setting in fields(options):
        if (
            setting.name in _OF_METHODS
            and getattr(options, setting.name) != setting.default
            and not takes(options.method, setting.name)
        ):
            raise WidthError(
                f"search: --{setting.name.replace('_', '-')} has no effect on {options.method}; leave it out"
            )
    if options.evals is not None and not takes(options.method, "evals"):
        raise WidthError(
            f"search: --evals is for bayes, random and evolve; {options.method} decides itself how much it measures"
        )
    if options.within and not takes(options.method, "limit"):
        raise WidthError(f"search: --within is for bayes; {options.method} takes one --budget")
    if options.budget is not None and not takes(options.method, "budget"):
        raise WidthError(f"search: {options.method} takes no --budget")
