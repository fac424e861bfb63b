"""Search the best widths of a finished run, within budgets or for every cost."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anywidth import search as methods
from anywidth.cost.budget import Kind
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.search.methods import needs_budget
from anywidth.space.width import Width
from anywidth.train import distributed
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.classifier_run import ClassifierRun, example_image
from anywidth.workflows.joint_search import held_out_batches, joined_processes, local_quality
from anywidth.workflows.reporter import SILENT, Reporter, spoken_once
from anywidth.workflows.run_directory import finished_classifier
from anywidth.workflows.run_files import FRONT
from anywidth.workflows.search_options import SearchOptions, check_search_options, parse_objective
from anywidth.workflows.tables import si

LOG, LATENCIES = "search.jsonl", "latencies.jsonl"
_LIMITS = 9


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search gave.

    Attributes:
        path: of the front's file.
        front: the best widths, the cheapest first.
        quality: "error" or "loss", on held-out images.
        rows: one per member: `width`, `cost`, `macs`, `macs_share`, `params` and its `quality`, beside `uniform_macs` and
            `uniform_quality` of the widest uniform width within the same limit.
    """

    path: Path
    front: methods.Front
    quality: str
    rows: list[dict[str, Any]]


def search(
    run: str | Path,
    options: SearchOptions | None = None,
    *,
    front: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> SearchResult:
    """Search the widths of a finished run that do best on held-out training images.

    The same call goes on after an interruption. Several processes search as one.

    Args:
        run: run directory of a classifier.
        options: method, objective and budget.
        front: file for the front; by default `front.json` in the run directory.
        reporter: is told how the search goes.

    Returns:
        The front, each member beside a uniform width.

    Raises:
        RecipeError: no finished run.
        WidthError: impossible options, a budget that cannot be met, or norms that other widths do not have.
        DataError: a run that held no images out.
        CheckpointError: the log of another search.
    """
    reporter, options = spoken_once(reporter), options or SearchOptions()
    open_run = finished_classifier(Path(run))
    front_path = Path(front) if front is not None else open_run.path / FRONT
    log = open_run.path / LOG if front is None else front_path.with_suffix(".search.jsonl")
    if options.low is None:
        options = dataclasses.replace(options, low=open_run.recipe.narrowest)
    with distributed.processes(open_run.device):
        return _search(open_run, options, front_path, log, reporter)


def _search(
    run: ClassifierRun, options: SearchOptions, front_path: Path, log: Path, reporter: Reporter
) -> SearchResult:
    net = saved_classifier(run)
    _check_norms(net)
    cost_kind, quality = parse_objective(options.objective, options.budget)
    check_search_options(options)
    batches = held_out_batches(run, options.images, options.batch_size)
    weights = _digest(net)
    costs = _costs(run, net, cost_kind, weights)
    limits = _budget(net, costs, cost_kind, options)
    bounds = [methods.parse(text, lambda cost_kind: _full_cost(net, cost_kind)) for text in options.within]
    measure = local_quality(net, batches, quality)
    front = methods.run_search(
        _searcher(net, limits, bounds, cost_kind, costs, options),
        measure,
        costs,
        log=log,
        about={
            "objective": [cost_kind, quality],
            "images": sum(len(labels) for _, labels in batches),
            "batch_size": len(batches[0][1]),
            "weights": weights,
        },
        together=joined_processes(),
        report=lambda done: _say(done, reporter),
    )
    ceilings = limits.limits if limits is not None else {m.label: m.cost for m in front.members}
    uniform = [uniform_rival(net, costs, ceilings.get(m.label, m.cost)) for m in front.members]
    rows: list[dict[str, Any]] = []
    if distributed.rank() == 0:
        methods.write_front(front_path, front)
        rows = _rows(net, front, uniform, measure(uniform))
    return SearchResult(path=front_path, front=front, quality=quality, rows=rows)


def uniform_rival(net: Elastic, costs: methods.Costs, limit: float) -> Width:
    """The widest uniform width within a limit; the narrowest where none is, as a measured latency may have it."""
    try:
        return methods.largest_uniform(net, costs, limit)
    except WidthError:
        return net.space.uniform(1e-9)


def _check_norms(net: Elastic) -> None:
    if net.norms.policy == "switchable" and net.norms.statistics:
        raise WidthError(
            "search: this run has batch norms for its listed widths only (elastic.norm = switchable); search on a run "
            "with elastic.norm = shared, then train what was found with switchable norms"
        )


def _full_cost(net: Elastic, cost_kind: Kind) -> float:
    """Cost of the widest network by a formula; what has none is refused where it would be used."""
    return 1.0 if cost_kind == "latency" else methods.closed_form(net, cost_kind)([net.space.full])[0]


def _budget(
    net: Elastic, costs: methods.Costs, cost_kind: Kind, options: SearchOptions
) -> methods.Budget | None:
    """The limits that were asked for; for searchers that need some, else evenly spaced ones; None for the whole curve."""
    if options.budget is not None:
        limits = methods.parse(options.budget, lambda cost_kind: costs([net.space.full])[0])
    elif not needs_budget(options.method):
        return None
    else:
        # With costs from 10 to 110 and nine limits: 100, 90, ... 20, named by their share of 110.
        assert options.low is not None
        min_cost, max_cost = costs([net.space.uniform(options.low), net.space.full])
        steps = [min_cost + (max_cost - min_cost) * i / (_LIMITS + 1) for i in range(_LIMITS, 0, -1)]
        limits = methods.Budget(
            kind=cost_kind, limits={f"{cost_kind}={100 * s / max_cost:.0f}%": s for s in steps}
        )
    methods.check(net, limits, costs)
    return limits


def _costs(run: ClassifierRun, net: Elastic, cost_kind: Kind, weights: str) -> methods.Costs:
    """Closed formulas, or latencies of one image that are measured once and kept."""
    if cost_kind != "latency":
        return methods.closed_form(net, cost_kind)
    image = example_image(run).to(run.device)
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else platform.machine()
    conditions = {
        "device": device,
        "threads": torch.get_num_threads(),
        "input": list(image.shape),
        "weights": weights,
    }
    return methods.remembered(
        methods.measured(net, image), run.path / LATENCIES, about=conditions, together=joined_processes()
    )


def _digest(net: Elastic) -> str:
    """Of the weights: answers of other weights are no answers."""
    digest = hashlib.blake2b(digest_size=16)
    for p in net.parameters():  # flat, as a parameter without dimensions has no bytes to view
        digest.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _searcher(
    net: Elastic,
    limits: methods.Budget | None,
    bounds: Sequence[methods.Budget],
    cost_kind: Kind,
    costs: methods.Costs,
    options: SearchOptions,
) -> methods.Searcher:
    offered = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name != "options"
    }
    offered |= {"net": net, "budget": limits, "limit": bounds, "kind": cost_kind, "costs": costs}
    return methods.make_searcher(options.method, offered | {"together": joined_processes()}, options.options)


def _say(done: methods.Round, reporter: Reporter) -> None:
    if not done.replayed and done.number % 10 == 1:
        best = min(range(len(done.errors)), key=done.errors.__getitem__)
        reporter.say(
            f"round {done.number}: {len(done.widths)} widths, best error {done.errors[best]:.4f} at cost {si(done.costs[best])}"
        )


def _rows(
    net: Elastic, front: methods.Front, uniform: Sequence[Width], uniform_quality: Sequence[float]
) -> list[dict[str, Any]]:
    """Members of the front beside the widest uniform widths within the same limits."""
    full = net.macs(net.space.full)
    return [
        {
            "width": member.label,
            "cost": member.cost,
            "macs": member.macs,
            "macs_share": member.macs / full,
            "params": member.params,
            "quality": member.error,
            "uniform_macs": net.macs(width),
            "uniform_quality": quality,
        }
        for member, width, quality in zip(front.members, uniform, uniform_quality, strict=True)
    ]
