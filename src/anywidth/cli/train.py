"""anywidth train: train a recipe, or go on with an interrupted training."""

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

import torch
import typer

from anywidth import prune
from anywidth import recipe as recipes
from anywidth import train as training
from anywidth.cli import names
from anywidth.cli.console import print_table, say, si, training_progress
from anywidth.cli.detection import train_detector
from anywidth.cli.joint import joslim
from anywidth.cli.pruning import PRUNED, prune_
from anywidth.cli.results import rows_as_text
from anywidth.cli.run import (
    FRONT,
    NET,
    RESULTS,
    Run,
    check_free,
    claim,
    finished_run,
    new_net,
    open_run,
    read_results,
)
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.files import write_json
from anywidth.recipe import PruneSection, Recipe
from anywidth.search import Bayes, write_front
from anywidth.train import CHECKPOINT, Draw, FitConfig, Joslim, distributed, policies
from anywidth.train.sparsity import SparsityConfig, histogram, scales_of


def train(
    recipe: Path = typer.Argument(metavar="RECIPE", help="YAML file of the recipe."),
    overrides: list[str] = typer.Argument(
        None, metavar="KEY=VALUE", help="Change keys, like train.epochs=10."
    ),
    run: Path = typer.Option(
        None,
        "--run",
        "--run-dir",  # torchrun takes --run for an abbreviation of an option of its own
        help="Run directory; under torchrun write --run-dir.  [default: runs/ and the recipe's name]",
    ),
) -> None:
    """Train RECIPE; the same command again goes on after an interruption."""
    if recipes.is_detection(recipe):
        train_detector(recipe, overrides or (), run)
        return
    settings = recipes.load(recipe, overrides or ())
    path = run or Path("runs") / recipe.stem
    check_free(path, settings)
    with distributed.processes(names.device(settings.device)):
        trained_(path, settings)
        parent = path
        passes = settings.prune.passes if settings.prune and settings.model.pruned is None else 0
        for pass_index in range(1, 1 + passes):
            parent = _pass_(path, parent, settings, pass_index)
        distributed.barrier()
    if distributed.rank() == 0:
        print_table(f"{path}", rows_as_text(read_results(path / RESULTS)["rows"]))
        if passes:
            print_table(f"{path}: after each pruning", passes_as_text(path, passes))


def trained_(path: Path, settings: Recipe) -> None:
    """Train into `path`, unless that is done."""
    results = path / RESULTS
    if distributed.from_first(results.exists):
        say(f"{path}: already trained; these are its results")
        return
    summary = _train(open_run(path, settings))
    if distributed.rank() == 0:
        write_json(results, summary)
    distributed.barrier()


def _pass_(path: Path, before: Path, settings: Recipe, pass_index: int) -> Path:
    """Prune the network of `before` and train what is left."""
    assert settings.prune is not None
    cut, after = before / PRUNED, path / f"pass-{pass_index}"
    if distributed.rank() == 0:
        _cut_again(before, settings.prune, cut, after)
    distributed.barrier()
    recipe = pass_recipe(settings, cut, last=pass_index == settings.prune.passes)
    check_free(after, recipe)
    trained_(after, recipe)
    return after


_PASSES = ("passes", "epochs", "lr", "sparse")  # change nothing of one pruning


def _cut_again(before: Path, section: PruneSection, cut: Path, after: Path) -> None:
    """Prune into `cut`, unless that is done with the same settings."""
    requested = section.model_dump(exclude=set(_PASSES))
    if (cut / prune.ABOUT).exists():
        done = {k: v for k, v in prune.read(cut).get("settings", {}).items() if k not in _PASSES}
        if done == requested:
            return
        if (after / RESULTS).exists() or (after / CHECKPOINT).exists():
            changed = next(k for k in requested if done.get(k) != requested[k])
            raise RecipeError(
                f"{after} was trained from a pruning with {changed} = {done.get(changed)!r}, now {requested[changed]!r}; name another "
                "directory with --run"
            )
    prune_(finished_run(before), section, cut)


def pass_recipe(settings: Recipe, cut: Path, *, last: bool) -> Recipe:
    """The recipe of a fine-tuning."""
    assert settings.prune is not None
    section, train = settings.prune, settings.train
    sparse = train.sparsity if section.sparse and not last else SparsityConfig()
    changes = {
        "epochs": section.epochs or train.epochs,
        "lr": section.lr or train.lr,
        "sparsity": dataclasses.replace(sparse, init=0.0),
    }
    if train.milestones and changes["epochs"] != train.epochs:
        changes["milestones"] = tuple(m * changes["epochs"] / train.epochs for m in train.milestones)
    model = settings.model.model_copy(update={"pruned": str(cut), "weights": None, "scratch": "no"})
    return settings.model_copy(
        update={"model": model, "train": dataclasses.replace(train, **changes), "prune": None}
    )


def passes_as_text(path: Path, passes: int) -> list[dict[str, str]]:
    """One row per training: the first, and that after each pruning."""
    folders = [path, *(path / f"pass-{i}" for i in range(1, 1 + passes))]
    rows = [read_results(folder / RESULTS)["rows"][-1] for folder in folders]
    return [
        {
            "pass": str(pass_index),
            "accuracy": f"{100 * row['accuracy']:.2f} %",
            "MACs": si(row["macs"]),
            "of the first": f"{row['macs'] / rows[0]['macs']:.3f}",
            "params": si(row["params"]),
            "of the first ": f"{row['params'] / rows[0]['params']:.3f}",
        }
        for pass_index, row in enumerate(rows)
    ]


def _settings(run: Run) -> FitConfig:
    """The settings of a training: weights that were read keep their scales, and a network from scratch with as many
    multiply-adds as the wide one has more epochs (arXiv 1810.05270, Scratch-B)."""
    settings, model_section = run.recipe.train, run.recipe.model
    if model_section.weights is not None or (
        model_section.pruned is not None and model_section.scratch == "no"
    ):
        settings = dataclasses.replace(settings, sparsity=dataclasses.replace(settings.sparsity, init=0.0))
    if model_section.scratch != "compute":
        return settings
    metadata = prune.read(model_section.pruned or "")
    epochs = max(1, int(settings.epochs * metadata["macs_of_the_first"] / metadata["macs"]))
    milestones = tuple(m * epochs / settings.epochs for m in settings.milestones)
    return dataclasses.replace(settings, epochs=epochs, milestones=milestones)


def _train(run: Run) -> dict[str, Any]:
    if run.device.type == "cuda":
        torch.cuda.set_device(run.device)
        torch.backends.cudnn.deterministic = True
    net = new_net(run)
    settings, draw = _settings(run), _policy(run, net)
    if distributed.rank() == 0:
        claim(run)
    distributed.barrier()
    scores = run.accuracies if settings.eval_every else None
    with training_progress() as report:
        seconds = training.fit_(
            net,
            run.train_batches,
            draw,
            settings,
            seed=run.recipe.seed,
            run=run.path,
            report=report,
            scores=scores,
        )
    if isinstance(draw, Joslim) and isinstance(draw.proposer, Bayes) and distributed.rank() == 0:
        write_front(run.path / FRONT, draw.proposer.present_front())
    return _finish(run, net, seconds)


def _policy(run: Run, net: Elastic) -> Draw:
    """What the recipe trains in each step."""
    widths = run.recipe.widths
    if widths.policy == "joslim":
        return joslim(run, net)
    return policies.make(
        widths.policy,
        net,
        low=widths.min,
        high=widths.max,
        random=widths.random,
        grid=widths.grid,
        per_group=widths.per_group,
        options=widths.options,
    )


def _finish(run: Run, net: Elastic, seconds: float) -> dict[str, Any]:
    listed = list(net.widths)
    if run.recipe.elastic.norm == "shared":  # switchable norms keep the statistics they were trained with
        run.calibrate_(net, listed)
    rows = run.results(net, listed, listed)
    scales = scales_of(net)
    if distributed.rank() == 0:
        net.save(run.path / NET)
    return {
        "model": run.recipe.model.name,
        "rows": rows,
        **({"scales": histogram(scales.values())} if scales else {}),
        "seconds": seconds,
        "seed": run.recipe.seed,
        "device": str(run.device),
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "corrupt_images": run.splits.corrupt(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
