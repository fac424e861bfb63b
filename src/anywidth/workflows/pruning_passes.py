"""Training in passes: prune what was trained, train what is left, and again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anywidth import prune
from anywidth.errors import RecipeError
from anywidth.recipe import PruneSection, Recipe
from anywidth.train import distributed
from anywidth.train.sparsity import SparsityConfig
from anywidth.workflows.fitting import train_into
from anywidth.workflows.pruning import prune_into
from anywidth.workflows.recipe_task import RecipeTask
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.run_directory import finished_classifier
from anywidth.workflows.run_files import PRUNED, RESULTS, is_begun, read_results

_PASSES = ("passes", "epochs", "lr", "sparse")  # change nothing of one pruning


def train_passes(path: Path, task: RecipeTask[Any], reporter: Reporter) -> list[Path]:
    """Prune and train a finished run as often as its recipe says.

    With `prune.passes` = 2, and pruned networks in brackets:

        RUN  ->  [RUN/pruned]  ->  RUN/pass-1  ->  [RUN/pass-1/pruned]  ->  RUN/pass-2

    Returns:
        The run directories, the first training's among them; none for a recipe without passes.
    """
    recipe = task.recipe
    section = recipe.prune if isinstance(recipe, Recipe) and recipe.model.pruned is None else None
    if section is None or not section.passes:
        return []
    folders = [path]
    for index in range(1, 1 + section.passes):
        before, after = folders[-1], path / f"pass-{index}"
        pruned = before / PRUNED
        if distributed.rank() == 0:
            _prune_unless_done(before, section, pruned, after, reporter)
        distributed.barrier()
        fine_tuning = dataclasses.replace(
            task, recipe=pass_recipe(recipe, pruned, is_final=index == section.passes)
        )
        fine_tuning.check_free(after)
        train_into(after, fine_tuning, reporter)
        folders.append(after)
    return folders


def _prune_unless_done(
    before: Path, section: PruneSection, pruned: Path, after: Path, reporter: Reporter
) -> None:
    """Prune into `pruned`, unless that is done with the same settings."""
    requested = section.model_dump(exclude=set(_PASSES))
    if (pruned / prune.ABOUT).exists():
        settings = prune.read(pruned).get("settings", {})
        done = {key: value for key, value in settings.items() if key not in _PASSES}
        if done == requested:
            return
        if is_begun(after):
            changed = next(key for key in requested if done.get(key) != requested[key])
            raise RecipeError(
                f"{after} was trained from a pruning with {changed} = {done.get(changed)!r}, now {requested[changed]!r}; name another "
                "directory with --run"
            )
    pruning = prune_into(finished_classifier(before), section, pruned, reporter=reporter)
    for table in pruning.tables:
        reporter.show(table)


def pass_recipe(recipe: Recipe, pruned: Path, *, is_final: bool) -> Recipe:
    """The recipe of a fine-tuning of the network in the folder `pruned`."""
    assert recipe.prune is not None
    section, train = recipe.prune, recipe.train
    sparsity = train.sparsity if section.sparse and not is_final else SparsityConfig()
    changes = {
        "epochs": section.epochs or train.epochs,
        "lr": section.lr or train.lr,
        "sparsity": dataclasses.replace(sparsity, init=0.0),
    }
    if train.milestones and changes["epochs"] != train.epochs:
        changes["milestones"] = tuple(m * changes["epochs"] / train.epochs for m in train.milestones)
    model = recipe.model.model_copy(update={"pruned": str(pruned), "weights": None, "scratch": "no"})
    return recipe.model_copy(
        update={"model": model, "train": dataclasses.replace(train, **changes), "prune": None}
    )


def pass_rows(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The widest row of each training, with its cost as a share of the first one's."""
    rows = [read_results(folder / RESULTS)["rows"][-1] for folder in folders]
    return [
        {
            "pass": index,
            "accuracy": row["accuracy"],
            "macs": row["macs"],
            "macs_share": row["macs"] / rows[0]["macs"],
            "params": row["params"],
            "params_share": row["params"] / rows[0]["params"],
        }
        for index, row in enumerate(rows)
    ]
