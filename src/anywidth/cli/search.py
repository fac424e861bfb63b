"""anywidth search: the best widths of a finished run within budgets."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import ConsoleReporter, print_table
from anywidth.workflows.naming import key_values
from anywidth.workflows.tables import percent, si


def search_command(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    method: str = typer.Option(
        "greedy",
        "--method",
        "--searcher",
        help="greedy (AutoSlim), evolve, bayes (Joslim), random, or your own: package.module:NAME.",
    ),
    objective: str = typer.Option(
        None, help="Cost and quality: macs, params or latency, and error or loss.  [default: macs,error]"
    ),
    budget: str = typer.Option(
        None, help="Limits, like macs=75%,50% or params=2M or latency=5ms; without any: the whole curve."
    ),
    within: list[str] = typer.Option(None, help="Of bayes: further limits for every width, like params=2M."),
    evals: int = typer.Option(
        None, min=1, help="Of bayes, random and evolve: widths to measure.  [default: 1000]"
    ),
    criterion: str = typer.Option("error", help="Of greedy: error or error_per_cost."),
    steps: int = typer.Option(12, min=1, help="Of greedy: steps that a channel group is cut into."),
    population: int = typer.Option(32, min=2, help="Of evolve: widths in a generation."),
    generations: int = typer.Option(10, min=0, help="Of evolve: generations for each limit."),
    acquisition: str = typer.Option("optimistic", help="Of bayes: optimistic, reference or ehvi."),
    beta: float = typer.Option(
        0.1, min=0, help="Of bayes: squared width of the bound, in standard deviations."
    ),
    prior_points: int = typer.Option(20, min=1, help="Of bayes: widths measured before there is a model."),
    batch: int = typer.Option(2, min=1, help="Of bayes: widths proposed at once."),
    low: float = typer.Option(
        None, help="Of bayes and random: smallest ratio of a group.  [default: widths.min]"
    ),
    high: float = typer.Option(1.0, help="Of bayes and random: largest ratio of a group."),
    ard: bool = typer.Option(True, help="Of bayes: a length scale for every channel group."),
    seed: int = typer.Option(0, min=0, help="Of evolve, bayes and random."),
    images: int = typer.Option(2000, min=1, help="Held-out images that decide, at most."),
    batch_size: int = typer.Option(250, min=2, help="Images that share batch-norm statistics."),
    option: list[str] = typer.Option(None, help="Further arguments of the method, as KEY=VALUE."),
    front: Path = typer.Option(None, help="File for the found widths.  [default: RUN/front.json]"),
) -> None:
    """Search the widths of a finished RUN that do best on held-out training images, within a BUDGET or for every cost.

    The same command goes on after an interruption. The file of the front is what `eval --pareto`, `eval --front`,
    `export --front` and the key `widths.listed` of a recipe take.
    """
    options = workflows.SearchOptions(
        method=method, objective=objective, budget=budget, within=tuple(within or ()), evals=evals, criterion=criterion,
        steps=steps, population=population, generations=generations, acquisition=acquisition, beta=beta,
        prior_points=prior_points, batch=batch, low=low, high=high, ard=ard, seed=seed, images=images, batch_size=batch_size,
        options=key_values(option or ()),
    )  # fmt: skip
    result = workflows.search(run, options, front=front, reporter=ConsoleReporter())
    if result.rows:
        print_table(f"{result.path}", _text(result))


def _text(result: workflows.SearchResult) -> list[dict[str, str]]:
    """Members of the front beside the widest uniform widths within the same limits."""
    show = percent if result.quality == "error" else "{:.4f}".format
    return [
        {
            "width": row["width"],
            **({"latency": f"{1e3 * row['cost']:.3g} ms"} if result.front.budget == "latency" else {}),
            "MACs": si(row["macs"]),
            "of the full": f"{row['macs_share']:.3f}",
            "params": si(row["params"]),
            f"held-out {result.quality}": show(row["quality"]),
            "uniform MACs": si(row["uniform_macs"]),
            f"its {result.quality}": show(row["uniform_quality"]),
        }
        for row in result.rows
    ]
