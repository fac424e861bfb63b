"""anywidth prune: cut channels out of a trained network."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from anywidth import data, prune
from anywidth.cli.console import print_table, say, si
from anywidth.cli.run import RECIPE, Run, finished_run, saved_net
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.norms.calibration import collect_
from anywidth.prune.ranking import Plan
from anywidth.recipe import PruneSection
from anywidth.train import evaluate_module

PRUNED = "pruned"


def prune_run(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    ratio: float = typer.Option(None, help="Share of the channels to remove, like 0.7."),
    budget: str = typer.Option(None, help="Or as many as it takes: macs=50%, params=2M or latency=5ms."),
    criterion: str = typer.Option(
        None, help="bn_scale, l1, l2, taylor, fpgm, lamp, activation, random or uniform.  [default: bn_scale]"
    ),
    rule: str = typer.Option(None, help="Ties as published: network-slimming or torch7."),
    scope: str = typer.Option(None, help="global, layer or isomorphic.  [default: global]"),
    streams: str = typer.Option(None, help="coupled or selection.  [default: coupled]"),
    max_per_layer: float = typer.Option(None, help="Largest share of a layer that may go.  [default: 1]"),
    minimum: int = typer.Option(None, help="Fewest channels of a layer that stay.  [default: 1]"),
    round_to: int = typer.Option(None, help="Kept channels are multiples of this.  [default: 1]"),
    empty: str = typer.Option(
        None, help="Layers that lose everything: keep, remove or error.  [default: keep]"
    ),
    fold: bool = typer.Option(
        None, "--fold/--no-fold", help="Make up for the shifts of removed channels.  [default: fold]"
    ),
    calibrate: bool = typer.Option(
        None, "--calibrate/--no-calibrate", help="Collect batch-norm statistics anew.  [default: no]"
    ),
    batches: int = typer.Option(8, min=1, help="Training batches for taylor and activation."),
    out: Path = typer.Option(None, help="Folder for the pruned network.  [default: RUN/pruned]"),
) -> None:
    """Prune a finished RUN. Options that are not given come from the section `prune` of its recipe.

    Train what is left with the same recipe and model.pruned=FOLDER.
    """
    directory = finished_run(run)
    if directory.recipe.elastic.join:
        raise RecipeError(
            f"{run}: elastic.join makes one number of several layers, and pruning chooses the channels of each"
        )
    target = out or run / PRUNED
    if (target / RECIPE).exists():
        raise RecipeError(f"{target} is a run; its network would be lost. Name another folder with --out")
    if target.resolve() == (run / PRUNED).resolve() and (run / "pass-1").exists():
        raise RecipeError(f"{run / 'pass-1'} was trained from {target}; name another folder with --out")
    options = {
        "ratio": ratio, "budget": budget, "criterion": criterion, "rule": rule, "scope": scope, "streams": streams,
        "max_per_layer": max_per_layer, "minimum": minimum, "round_to": round_to, "empty": empty, "fold": fold,
        "calibrate": calibrate,
    }  # fmt: skip
    options = {key: value for key, value in options.items() if value is not None}
    recipe_settings = directory.recipe.prune.model_dump() if directory.recipe.prune else {}
    if "ratio" in options and "budget" not in options:
        recipe_settings.pop("budget", None)
    if "budget" in options and "ratio" not in options:
        recipe_settings.pop("ratio", None)
    prune_(directory, _section({**recipe_settings, **options}), target, batches=batches)


def _section(values: dict[str, Any]) -> PruneSection:
    from pydantic import ValidationError

    try:
        return PruneSection.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        message = str(detail.get("ctx", {}).get("error", detail["msg"]))
        raise RecipeError(f"prune: {key} = {detail['input']!r}: {message}" if key else message) from None


def prune_(run: Run, section: PruneSection, out: Path, *, batches: int = 8) -> None:
    """Prune the network of a run into a folder, and print what it costs and can do before and after."""
    net = saved_net(run).eval()
    freeze = list(run.recipe.elastic.freeze)
    plan = _planned(run, section, net, batches)
    if plan.removed:
        say(f"{len(plan.removed)} channel groups became empty: {', '.join(plan.removed[:5])}")
    small, step = prune.cut_(net, plan.width, freeze=freeze, fold=section.fold)
    networks: dict[str, Callable[[], nn.Module]] = {
        "trained": lambda: net.model,
        "zeroed": lambda: prune.masked(net, plan.width),
        "pruned": lambda: prune.compact(net, plan.width, fold=False),
    }
    if section.fold:
        networks["folded"] = lambda: small
    rows = []
    for name, make in networks.items():
        rows.append(_row(run, name, make(), net, plan))
    if section.calibrate:
        collect_(
            [lambda: small],
            _inputs(run, run.recipe.calibration.batches),
            run.recipe.calibration.batches,
            device=run.device,
        )
        rows.append(_row(run, "calibrated", small, net, plan))
    metadata = _about(run, section, net, plan)
    metadata |= {"params": sum(p.numel() for p in small.parameters()), "rows": rows}
    metadata["steps"] = [*metadata["steps"], step]
    prune.write(out, small, metadata)
    images = "held-out" if run.splits.held_out is not None else "test"
    print_table(
        f"{out}: {plan.pruned} of {plan.judged} channels removed; accuracy on the {images} images",
        [_text(row) for row in rows],
    )


def _planned(run: Run, section: PruneSection, net: Elastic, batches: int) -> Plan:
    """What goes, with the gradients or activations that the criterion asks for."""
    of = net.selection(freeze=run.recipe.elastic.freeze) if section.streams == "selection" else net
    if section.criterion == "taylor":
        _gradients_(of, run, batches)
    return prune.planned(
        net,
        section.ratio,
        criterion=section.criterion,  # pyright: ignore[reportArgumentType]
        rule=section.rule,
        scope=section.scope,
        streams=section.streams,
        max_per_layer=section.max_per_layer,
        minimum=section.minimum,
        round_to=section.round_to,
        empty=section.empty,
        budget=section.budget,
        batches=_inputs(run, batches) if section.criterion == "activation" else None,
        seed=run.recipe.seed,
    )


def _about(run: Run, section: PruneSection, net: Elastic, plan: Plan) -> dict[str, Any]:
    """What the folder says of the pruning, and of the steps before this one."""
    model = run.recipe.model
    earlier = (
        prune.read(run.path)
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
        "kept_by_norm": prune.kept_by_norm(net, plan.width),
        "macs": int(net.macs(plan.width)),
        "macs_of_the_first": earlier["macs_of_the_first"],
        "params_of_the_first": earlier["params_of_the_first"],
        "steps": earlier["steps"],
    }


def _row(run: Run, name: str, module: nn.Module, net: Elastic, plan: Plan) -> dict[str, Any]:
    full = name in ("trained", "zeroed")
    images = run.splits.test if run.splits.held_out is None else run.splits.held_out
    score = evaluate_module(
        module.to(run.device), data.eval_batches(images, run.recipe.data, rank=0, world=1)
    )
    width = net.space.full if full else plan.width
    return {
        "network": name,
        "accuracy": score.accuracy,
        "loss": score.loss,
        "images": score.images,
        "macs": int(net.macs(width)),
        "macs_share": net.macs(width) / net.macs(net.space.full),
        "params": sum(p.numel() for p in module.parameters()),
        "params_share": sum(p.numel() for p in module.parameters()) / net.params(net.space.full),
    }


def _text(row: dict[str, Any]) -> dict[str, str]:
    return {
        "network": row["network"],
        "accuracy": f"{100 * row['accuracy']:.2f} %",
        "loss": f"{row['loss']:.4f}",
        "MACs": si(row["macs"]),
        "of the trained": f"{row['macs_share']:.3f}",
        "params": si(row["params"]),
        "of the trained ": f"{row['params_share']:.3f}",
    }


def _images(run: Run, batches: int) -> list[Any]:
    """The first training batches of a fixed order, whole ones in each process."""
    settings = run.recipe
    loader = data.train_batches(
        run.splits, settings.data, seed=settings.seed, epoch=0, rank=0, world=1, micro=1, first=0
    )
    return list(islice(iter(loader), batches))


def _inputs(run: Run, batches: int) -> list[torch.Tensor]:
    return [images.to(run.device) for images, _ in _images(run, batches)]


def _gradients_(net: Elastic, run: Run, batches: int) -> None:
    """Of the cross-entropy of some training batches, in evaluation mode."""
    net.zero_grad()
    net.eval()
    for images, labels in _images(run, batches):
        logits = net.model(images.to(run.device))
        torch.nn.functional.cross_entropy(logits, labels.to(run.device)).backward()
