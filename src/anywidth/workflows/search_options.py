"""What a search of widths is asked for, and what of it does not go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from anywidth.cost.budget import Kind
from anywidth.errors import WidthError
from anywidth.space.width import unknown_name

METHODS = ("greedy", "evolve", "bayes", "random")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How widths are searched.

    Attributes:
        method: "greedy" (AutoSlim), "evolve", "bayes" (Joslim) or "random".
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
        WidthError: an unknown method, or options of another one.
    """
    if options.method not in METHODS:
        raise WidthError(unknown_name("method of search", options.method, METHODS))
    if options.evals is not None and options.method == "greedy":
        raise WidthError(
            "search: --evals is for bayes, random and evolve; greedy measures what its --steps ask for"
        )
    if options.within and options.method != "bayes":
        raise WidthError(f"search: --within is for bayes; {options.method} takes one --budget")
