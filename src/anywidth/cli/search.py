"""anywidth search: the best widths of a finished run within budgets."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import typer

from anywidth import search
from anywidth.cli.console import print_table, say, si
from anywidth.cli.joint import answers, held_out, together
from anywidth.cli.run import FRONT, Run, example, finished_run, saved_net
from anywidth.cost.budget import Kind
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.space.width import Width, unknown_name
from anywidth.train import distributed

LOG, LATENCIES = "search.jsonl", "latencies.jsonl"
METHODS = ("greedy", "evolve", "bayes", "random")
_EVALS, _LIMITS = 1000, 9


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was asked for on the command line."""

    method: str
    evals: int | None
    criterion: Any
    steps: int
    population: int
    generations: int
    acquisition: Any
    beta: float
    prior_points: int
    batch: int
    low: float
    high: float
    ard: bool
    seed: int


def find(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    method: str = typer.Option(
        "greedy", "--method", "--searcher", help="greedy (AutoSlim), evolve, bayes (Joslim) or random."
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
    front: Path = typer.Option(None, help="File for the found widths.  [default: RUN/front.json]"),
) -> None:
    """Search the widths of a finished RUN that do best on held-out training images, within a BUDGET or for every cost.

    The same command goes on after an interruption. The file of the front is what `eval --pareto`, `eval --front`,
    `export --front` and the key `widths.listed` of a recipe take.
    """
    directory = finished_run(run)
    with distributed.processes(directory.device):
        net = saved_net(directory)
        _check_norms(net)
        cost_kind, quality = _objective(objective, budget)
        choices = Choices(
            method=method, evals=evals, criterion=criterion, steps=steps, population=population, generations=generations,
            acquisition=acquisition, beta=beta, prior_points=prior_points, batch=batch,
            low=directory.recipe.narrowest if low is None else low, high=high, ard=ard, seed=seed,
        )  # fmt: skip
        _check_choices(choices, within)
        batches = held_out(directory, images, batch_size)
        weights = _digest(net)
        costs = _costs(directory, net, cost_kind, weights)
        limits = _budget(net, costs, cost_kind, budget, choices)
        bounds = [search.parse(text, lambda cost_kind: _whole(net, cost_kind)) for text in within or ()]
        ask = answers(net, batches, quality)
        pareto_front = search.run_search(
            _searcher(net, limits, bounds, cost_kind, costs, choices),
            ask,
            costs,
            log=run / LOG if front is None else front.with_suffix(".search.jsonl"),
            about={
                "objective": [cost_kind, quality],
                "images": sum(len(labels) for _, labels in batches),
                "batch_size": len(batches[0][1]),
                "weights": weights,
            },
            together=together(),
            report=_say,
        )
        ceilings = limits.limits if limits is not None else {m.label: m.cost for m in pareto_front.members}
        uniform = [_uniform_rival(net, costs, ceilings[m.label]) for m in pareto_front.members]
        if distributed.rank() != 0:
            return
        search.write_front(front or run / FRONT, pareto_front)
        print_table(f"{front or run / FRONT}", _rows(net, pareto_front, uniform, ask(uniform), quality))


def _uniform_rival(net: Elastic, costs: search.Costs, limit: float) -> Width:
    """The widest uniform width within a limit; the narrowest where none is, as a measured latency may have it."""
    try:
        return search.largest_uniform(net, costs, limit)
    except WidthError:
        return net.space.uniform(1e-9)


def _check_norms(net: Elastic) -> None:
    if net.norms.policy == "switchable" and net.norms.statistics:
        raise WidthError(
            "search: this run has batch norms for its listed widths only (elastic.norm = switchable); search on a run "
            "with elastic.norm = shared, then train what was found with switchable norms"
        )


def _check_choices(choices: Choices, within: Sequence[str] | None) -> None:
    if choices.method not in METHODS:
        raise WidthError(unknown_name("method of search", choices.method, METHODS))
    if choices.evals is not None and choices.method == "greedy":
        raise WidthError(
            "search: --evals is for bayes, random and evolve; greedy measures what its --steps ask for"
        )
    if within and choices.method != "bayes":
        raise WidthError(f"search: --within is for bayes; {choices.method} takes one --budget")


def _objective(text: str | None, budget: str | None) -> tuple[Kind, str]:
    """Kind of the cost, and "error" or "loss"."""
    named = None if budget is None else budget.partition("=")[0]
    default = named if named in get_args(Kind) else "macs"  # what the budget is, is checked with its limits
    cost_kind, comma, quality = (text or f"{default},error").partition(",")
    if not comma or cost_kind not in get_args(Kind) or quality not in ("error", "loss"):
        raise WidthError(
            f"objective {text!r}: expected a cost (macs, params, latency) and a quality (error, loss), like macs,error"
        )
    if named is not None and text is not None and named != cost_kind:
        raise WidthError(f"search: the budget {budget!r} limits another cost than the objective {text!r} has")
    return cost_kind, quality  # pyright: ignore[reportReturnType]


def _whole(net: Elastic, kind: Kind) -> float:
    """Cost of the widest network by a formula; what has none is refused where it would be used."""
    return 1.0 if kind == "latency" else search.closed_form(net, kind)([net.space.full])[0]


def _budget(
    net: Elastic, costs: search.Costs, kind: Kind, text: str | None, choices: Choices
) -> search.Budget | None:
    """The limits that were asked for; for searchers that need some, else evenly spaced ones; None for the whole curve."""
    if text is not None:
        limits = search.parse(text, lambda kind: costs([net.space.full])[0])
    elif choices.method in ("bayes", "random"):
        return None
    else:
        min_cost, max_cost = costs([net.space.uniform(choices.low), net.space.full])
        steps = [min_cost + (max_cost - min_cost) * i / (_LIMITS + 1) for i in range(_LIMITS, 0, -1)]
        limits = search.Budget(kind=kind, limits={f"{kind}={100 * s / max_cost:.0f}%": s for s in steps})
    search.check(net, limits, costs)
    return limits


def _costs(run: Run, net: Elastic, kind: Kind, weights: str) -> search.Costs:
    """Closed formulas, or latencies of one image that are measured once and kept."""
    if kind != "latency":
        return search.closed_form(net, kind)
    image = example(run).to(run.device)
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else platform.machine()
    metadata = {
        "device": device,
        "threads": torch.get_num_threads(),
        "input": list(image.shape),
        "weights": weights,
    }
    return search.remembered(
        search.measured(net, image), run.path / LATENCIES, about=metadata, together=together()
    )


def _digest(net: Elastic) -> str:
    """Of the weights: answers of other weights are no answers."""
    digest = hashlib.blake2b(digest_size=16)
    for p in net.parameters():  # flat, as a parameter without dimensions has no bytes to view
        digest.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _searcher(
    net: Elastic,
    limits: search.Budget | None,
    bounds: Sequence[search.Budget],
    kind: Kind,
    costs: search.Costs,
    chosen: Choices,
) -> search.Searcher:
    if chosen.method == "bayes":
        return search.Bayes(
            net, kind=kind, costs=costs, evals=chosen.evals or _EVALS, batch=chosen.batch, low=chosen.low, high=chosen.high,
            acquisition=chosen.acquisition, beta=chosen.beta, prior_points=chosen.prior_points, ard=chosen.ard,
            history=200, budget=limits, limit=bounds, seed=chosen.seed, together=together(),
        )  # pyright: ignore[reportArgumentType]  # fmt: skip
    if chosen.method == "random":
        return search.Random(
            net, kind=kind, evals=chosen.evals or _EVALS, low=chosen.low, high=chosen.high, budget=limits, seed=chosen.seed
        )  # fmt: skip
    assert limits is not None
    if chosen.method == "greedy":
        return search.Greedy(net, limits, steps=chosen.steps, criterion=chosen.criterion)
    population, generations = chosen.population, chosen.generations
    if chosen.evals is not None:
        each = chosen.evals // len(limits.limits)
        if each < 2:
            raise WidthError(
                f"search: --evals {chosen.evals} is less than two widths for each of {len(limits.limits)} limits; measure more, or "
                "name fewer limits with --budget"
            )
        population = max(2, min(population, each))
        generations = max(0, each // population - 1)
    return search.Evolve(
        net, limits, population=population, generations=generations, parents=min(8, population), seed=chosen.seed
    )  # fmt: skip


def _say(done: search.Round) -> None:
    if not done.replayed and done.number % 10 == 1:
        best = min(range(len(done.errors)), key=done.errors.__getitem__)
        say(
            f"round {done.number}: {len(done.widths)} widths, best error {done.errors[best]:.4f} at cost {si(done.costs[best])}"
        )


def _rows(
    net: Elastic, found: search.Front, uniform: Sequence[Width], errors: Sequence[float], quality: str
) -> list[dict[str, str]]:
    """Found widths beside the widest uniform ones within the same limits."""
    full = net.macs(net.space.full)
    rows = []
    for member, width, error in zip(found.members, uniform, errors, strict=True):
        rows.append(
            {
                "width": member.label,
                **({"latency": f"{1e3 * member.cost:.3g} ms"} if found.budget == "latency" else {}),
                "MACs": si(member.macs),
                "of the full": f"{member.macs / full:.3f}",
                "params": si(member.params),
                f"held-out {quality}": _as_text(member.error, quality),
                "uniform MACs": si(net.macs(width)),
                f"its {quality}": _as_text(error, quality),
            }
        )
    return rows


def _as_text(value: float, quality: str) -> str:
    return f"{100 * value:.2f} %" if quality == "error" else f"{value:.4f}"
