"""anywidth search: the best widths of a finished run within budgets."""

import hashlib
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import typer

from anywidth import data, search
from anywidth.cli.console import print_table, say, si
from anywidth.cli.run import Run, example, finished_run, saved_net
from anywidth.elastic import Elastic
from anywidth.errors import DataError, WidthError
from anywidth.train import distributed, evaluate
from anywidth.width import Width

FRONT, LOG, LATENCIES = "front.json", "search.jsonl", "latencies.jsonl"


def find(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    budget: str = typer.Option(..., help="Limits, like macs=75%,50% or params=2M or latency=5ms."),
    searcher: str = typer.Option("greedy", help="greedy (AutoSlim) or evolve."),
    criterion: str = typer.Option("error", help="Of greedy: error or error_per_cost."),
    steps: int = typer.Option(12, min=1, help="Of greedy: steps that a channel group is cut into."),
    population: int = typer.Option(32, min=2, help="Of evolve: widths in a generation."),
    generations: int = typer.Option(10, min=0, help="Of evolve: generations for each limit."),
    seed: int = typer.Option(0, min=0, help="Of evolve."),
    images: int = typer.Option(2000, min=1, help="Held-out images that decide, at most."),
    batch_size: int = typer.Option(250, min=2, help="Images that share batch-norm statistics."),
    front: Path = typer.Option(None, help="File for the found widths.  [default: RUN/front.json]"),
) -> None:
    """Search the widths of a finished RUN that do best on held-out training images within a BUDGET.

    The same command goes on after an interruption. The file of the front is what `export --front`, `eval --front` and
    the key `widths.listed` of a recipe take.
    """
    directory = finished_run(run)
    with distributed.processes(directory.device):
        net = saved_net(directory)
        if net.norms.policy == "switchable" and net.norms.statistics:
            raise WidthError(
                "search: this run has batch norms for its listed widths only (elastic.norm = switchable); search on a run "
                "with elastic.norm = shared, then train what was found with switchable norms"
            )
        batches = _held_out(directory, images, batch_size)
        together = search.Together(
            rank=distributed.rank(),
            world=distributed.world(),
            gathered=distributed.gathered,
            from_first=distributed.from_first,
        )
        weights = _digest(net)
        costs_of = cache(lambda kind: _costs(directory, net, kind, weights, together))
        limits = search.parse(budget, lambda kind: costs_of(kind)([net.space.full])[0])
        costs = costs_of(limits.kind)
        search.check(net, limits, costs)
        chosen = _searcher(net, limits, searcher, criterion, steps, population, generations, seed)

        def errors(widths: Sequence[Width]) -> list[float]:
            scores = evaluate(net, batches, widths, norm="batch", shared=False)
            return [1 - score.accuracy for score in scores]

        found = search.run_search(
            chosen,
            errors,
            costs,
            log=run / LOG if front is None else front.with_suffix(".search.jsonl"),
            about={
                "images": sum(len(labels) for _, labels in batches),
                "batch_size": len(batches[0][1]),
                "weights": weights,
            },
            together=together,
            report=_say,
        )
        uniform = [search.largest_uniform(net, costs, limits.limits[m.label]) for m in found.members]
        if distributed.rank() != 0:
            return
        search.write_front(front or run / FRONT, found)
        print_table(f"{front or run / FRONT}", _rows(net, found, uniform, errors(uniform)))


def _costs(run: Run, net: Elastic, kind: Any, weights: str, together: search.Together) -> search.Costs:
    """Closed formulas, or latencies of one image that are measured once and kept."""
    if kind != "latency":
        return search.closed_form(net, kind)
    image = example(run).to(run.device)
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else platform.machine()
    about = {
        "device": device,
        "threads": torch.get_num_threads(),
        "input": list(image.shape),
        "weights": weights,
    }
    return search.remembered(
        search.measured(net, image), run.path / LATENCIES, about=about, together=together
    )


def _digest(net: Elastic) -> str:
    """Of the weights: answers of other weights are no answers."""
    digest = hashlib.blake2b(digest_size=16)
    for p in net.parameters():  # flat, as a parameter without dimensions has no bytes to view
        digest.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _held_out(run: Run, images: int, batch_size: int) -> list[Any]:
    """Batches that every process evaluates its share of the widths on."""
    held_out = run.splits.held_out
    if held_out is None:
        raise DataError(
            "search: the run held no images out, and test images must not choose widths; train with data.held_out=1000 or more"
        )
    count = min(images, len(held_out))
    size = min(batch_size, count)
    part = data.ImageSet(
        held_out.source,
        held_out.indices[: count - count % size],
        held_out.transform,
        held_out.unreadable,
        replace=False,
    )
    return list(data.eval_batches(part, run.recipe.data, batch_size=size))


def _searcher(
    net: Elastic,
    limits: search.Budget,
    name: str,
    criterion: Any,
    steps: int,
    population: int,
    generations: int,
    seed: int,
) -> search.Searcher:
    if name == "greedy":
        return search.Greedy(net, limits, steps=steps, criterion=criterion)
    if name == "evolve":
        return search.Evolve(
            net, limits, population=population, generations=generations, parents=min(8, population), seed=seed
        )
    raise WidthError(f"search: unknown searcher {name!r}; use greedy or evolve")


def _say(done: search.Round) -> None:
    if not done.replayed and done.number % 10 == 1:
        best = min(range(len(done.errors)), key=done.errors.__getitem__)
        say(
            f"round {done.number}: {len(done.widths)} widths, best error {done.errors[best]:.4f} at cost {si(done.costs[best])}"
        )


def _rows(
    net: Elastic, found: search.Front, uniform: Sequence[Width], errors: Sequence[float]
) -> list[dict[str, str]]:
    """Found widths beside the widest uniform ones within the same limits."""
    full = net.macs(net.space.full)
    rows = []
    for member, width, error in zip(found.members, uniform, errors, strict=True):
        rows.append(
            {
                "budget": member.label,
                **({"latency": f"{1e3 * member.cost:.3g} ms"} if found.budget == "latency" else {}),
                "MACs": si(member.macs),
                "of the full": f"{member.macs / full:.3f}",
                "params": si(member.params),
                "held-out error": f"{100 * member.error:.2f} %",
                "uniform MACs": si(net.macs(width)),
                "its error": f"{100 * error:.2f} %",
            }
        )
    return rows
