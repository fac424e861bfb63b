"""Cut channels out of the trained network of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anywidth import data
from anywidth import prune as methods
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.norms.calibration import collect_
from anywidth.prune.ranking import Plan
from anywidth.recipe import PruneSection
from anywidth.train import evaluate_module
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.classifier_run import ClassifierRun
from anywidth.workflows.reporter import SILENT, Reporter, spoken_once
from anywidth.workflows.run_directory import finished_classifier
from anywidth.workflows.run_files import PRUNED, RECIPE
from anywidth.workflows.tables import TextTable, percent, si

_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """How a run is pruned; what is None comes from the section `prune` of its recipe, or is the default there.

    Attributes:
        ratio: share of the channels to remove.
        budget: or as many as it takes, like "macs=50%", "params=2M" or "latency=5ms".
        criterion: of `anywidth.prune.CRITERIA`, or "package.module:function".
        rule: ties as published, "network-slimming" or "torch7".
        scope: "global", "layer" or "isomorphic".
        streams: "coupled" or "selection".
        max_per_layer: largest share of a layer that may go.
        minimum: fewest channels of a layer that stay.
        round_to: kept channels are multiples of this.
        empty: layers that lose everything: "keep", "remove" or "error".
        fold: make up for the shifts of removed channels.
        calibrate: collect batch-norm statistics anew.
        batches: training batches for criteria that look at gradients or activations (taylor, activation).
    """

    ratio: float | None = None
    budget: str | None = None
    criterion: str | None = None
    rule: str | None = None
    scope: str | None = None
    streams: str | None = None
    max_per_layer: float | None = None
    minimum: int | None = None
    round_to: int | None = None
    empty: str | None = None
    fold: bool | None = None
    calibrate: bool | None = None
    batches: int = _BATCHES


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What a pruning left.

    Attributes:
        folder: holds the network; train it with `model.pruned` = this folder.
        description: the contents of its `pruned.json`.
        tables: accuracy and cost before and after, as text.
    """

    folder: Path
    description: dict[str, Any]
    tables: tuple[TextTable, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Accuracy and cost of the trained, the zeroed and the pruned network."""
        return self.description["rows"]


def prune(
    run: str | Path,
    options: PruneOptions | None = None,
    *,
    out: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Pruning:
    """Prune the network of a finished run into a folder.

    Args:
        run: run directory of a classifier.
        options: how much, and by which criterion.
        out: folder to write; by default `pruned` in the run directory.
        reporter: is told which layers became empty.

    Returns:
        What was removed, and accuracy and cost before and after.

    Raises:
        RecipeError: no finished run, impossible options, or a folder whose network is in use.
    """
    reporter, options = spoken_once(reporter), options or PruneOptions()
    run = Path(run)
    open_run = finished_classifier(run)
    if open_run.recipe.elastic.join:
        raise RecipeError(
            f"{run}: elastic.join makes one number of several layers, and pruning chooses the channels of each"
        )
    folder = Path(out) if out is not None else run / PRUNED
    if (folder / RECIPE).exists():
        raise RecipeError(f"{folder} is a run; its network would be lost. Name another folder with --out")
    if folder.resolve() == (run / PRUNED).resolve() and (run / "pass-1").exists():
        raise RecipeError(f"{run / 'pass-1'} was trained from {folder}; name another folder with --out")
    section = _section(open_run.recipe.prune, options)
    return prune_into(open_run, section, folder, batches=options.batches, reporter=reporter)


def _section(of_recipe: PruneSection | None, options: PruneOptions) -> PruneSection:
    """The section of a recipe with the options in the place of its keys."""
    from pydantic import ValidationError

    changes = {key: value for key, value in asdict(options).items() if value is not None and key != "batches"}
    values = of_recipe.model_dump() if of_recipe else {}
    # A ratio and a budget say how much in two ways: the one that is asked for replaces that of the recipe.
    if "ratio" in changes and "budget" not in changes:
        values.pop("budget", None)
    if "budget" in changes and "ratio" not in changes:
        values.pop("ratio", None)
    try:
        return PruneSection.model_validate({**values, **changes})
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        message = str(detail.get("ctx", {}).get("error", detail["msg"]))
        raise RecipeError(f"prune: {key} = {detail['input']!r}: {message}" if key else message) from None


def prune_into(
    run: ClassifierRun,
    section: PruneSection,
    folder: Path,
    *,
    batches: int = _BATCHES,
    reporter: Reporter = SILENT,
) -> Pruning:
    """Prune the network of a run into a folder, and measure what it costs and can do before and after."""
    net = saved_classifier(run).eval()
    freeze = list(run.recipe.elastic.freeze)
    plan = _planned(run, section, net, batches)
    if plan.removed:
        reporter.say(f"{len(plan.removed)} channel groups became empty: {', '.join(plan.removed[:5])}")
    small, step = methods.cut_(net, plan.width, freeze=freeze, fold=section.fold)
    # "zeroed" and "pruned" must agree: the cut network computes what the masked one does; "folded" makes up for shifts.
    networks: dict[str, Callable[[], nn.Module]] = {
        "trained": lambda: net.model,
        "zeroed": lambda: methods.masked(net, plan.width),
        "pruned": lambda: methods.compact(net, plan.width, fold=False),
    }
    if section.fold:
        networks["folded"] = lambda: small
    rows = []
    for name, make in networks.items():
        try:
            rows.append(_row(run, name, make(), net, plan))
        except WidthError as error:
            if name != "zeroed":
                raise
            reporter.say(str(error))
    if section.calibrate:
        count = run.recipe.calibration.batches
        collect_([lambda: small], _images(run, count), count, device=run.device)
        rows.append(_row(run, "calibrated", small, net, plan))
    description = _description(run, section, net, plan)
    description |= {"params": sum(p.numel() for p in small.parameters()), "rows": rows}
    description["steps"] = [*description["steps"], step]
    methods.write(folder, small, description)
    judging_images = "held-out" if run.splits.held_out is not None else "test"
    title = (
        f"{folder}: {plan.pruned} of {plan.judged} channels removed; accuracy on the {judging_images} images"
    )
    table = TextTable(title=title, rows=[_text(row) for row in rows])
    return Pruning(folder=folder, description=description, tables=(table,))


def _planned(run: ClassifierRun, section: PruneSection, net: Elastic, batches: int) -> Plan:
    """What goes, with the gradients or activations that the criterion asks for."""
    judged_net = net.selection(freeze=run.recipe.elastic.freeze) if section.streams == "selection" else net
    criterion = methods.criterion_of(section.criterion)
    if criterion.needs_gradients:
        _gradients_(judged_net, run, batches)
    config = methods.PlanConfig(
        rule=section.rule, scope=section.scope, streams=section.streams, max_per_layer=section.max_per_layer, minimum=section.minimum,
        round_to=section.round_to, empty=section.empty, budget=section.budget, seed=run.recipe.seed,
    )  # fmt: skip
    batches_judged = _images(run, batches) if criterion.needs_batches else None
    return methods.planned(net, section.ratio, config, criterion=section.criterion, batches=batches_judged)


def _description(run: ClassifierRun, section: PruneSection, net: Elastic, plan: Plan) -> dict[str, Any]:
    """What the folder says of the pruning, and of the steps before this one."""
    model = run.recipe.model
    earlier = (
        methods.read(run.path)
        if model.pruned
        else {
            "steps": [],
            "macs_of_the_first": int(net.macs(net.space.full)),
            "params_of_the_first": int(net.params(net.space.full)),
        }
    )
    return {
        "model": model.name,
        "kwargs": model.kwargs,
        "input": [1, *net.example().shape[1:]],
        "settings": section.model_dump(),
        "ratio": plan.ratio,
        "threshold": plan.threshold,
        "pruned": plan.pruned,
        "judged": plan.judged,
        "protected": list(plan.protected),
        "removed": list(plan.removed),
        "kept_by_norm": methods.kept_by_norm(net, plan.width),
        "macs": int(net.macs(plan.width)),
        "macs_of_the_first": earlier["macs_of_the_first"],
        "params_of_the_first": earlier["params_of_the_first"],
        "steps": earlier["steps"],
    }


def _row(run: ClassifierRun, name: str, module: nn.Module, net: Elastic, plan: Plan) -> dict[str, Any]:
    images = run.splits.test if run.splits.held_out is None else run.splits.held_out
    score = evaluate_module(
        module.to(run.device), data.eval_batches(images, run.recipe.data, rank=0, world=1)
    )
    width = net.space.full if name in ("trained", "zeroed") else plan.width
    params = sum(p.numel() for p in module.parameters())
    return {
        "network": name,
        "accuracy": score.accuracy,
        "loss": score.loss,
        "images": score.images,
        "macs": int(net.macs(width)),
        "macs_share": net.macs(width) / net.macs(net.space.full),
        "params": params,
        "params_share": params / net.params(net.space.full),
    }


def _text(row: dict[str, Any]) -> dict[str, str]:
    return {
        "network": row["network"],
        "accuracy": percent(row["accuracy"]),
        "loss": f"{row['loss']:.4f}",
        "MACs": si(row["macs"]),
        "of the trained": f"{row['macs_share']:.3f}",
        "params": si(row["params"]),
        "of the trained ": f"{row['params_share']:.3f}",  # a column's name is a key, so the two differ by a space
    }


def _labelled_batches(run: ClassifierRun, batches: int) -> list[Any]:
    """The first training batches of a fixed order, whole ones in each process."""
    loader = data.train_batches(
        run.splits, run.recipe.data, seed=run.recipe.seed, epoch=0, rank=0, world=1, micro=1, first=0
    )
    return list(islice(iter(loader), batches))


def _images(run: ClassifierRun, batches: int) -> list[torch.Tensor]:
    return [images.to(run.device) for images, _ in _labelled_batches(run, batches)]


def _gradients_(net: Elastic, run: ClassifierRun, batches: int) -> None:
    """Of the cross-entropy of some training batches, in evaluation mode."""
    net.zero_grad()
    net.eval()
    for images, labels in _labelled_batches(run, batches):
        logits = net.model(images.to(run.device))
        torch.nn.functional.cross_entropy(logits, labels.to(run.device)).backward()
