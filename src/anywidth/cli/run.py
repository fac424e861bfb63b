"""The run directory: what is in it, and how a verb opens it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anywidth import data, interop, prune
from anywidth import recipe as recipes
from anywidth.cli import names
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, RecipeError
from anywidth.files import write_json, write_text
from anywidth.recipe import Recipe
from anywidth.search.front import read_front
from anywidth.space.joined_groups import joined
from anywidth.store import load
from anywidth.train import CHECKPOINT, distributed, evaluate
from anywidth.views.trial_runs import probed_space

RECIPE, NET, RESULTS, EVALUATION = "recipe.yaml", "net.safetensors", "results.json", "eval.json"
FRONT = "front.json"

_HARMLESS = (
    "data.root", "data.workers", "data.corrupt_limit", "train.log_every", "train.tensorboard", "model.pruned", "prune", "gate",
)  # fmt: skip
"""Keys and sections that change no weight of this run: an interrupted training may go on with others."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory, its recipe and its images."""

    path: Path
    recipe: Recipe
    splits: data.Splits
    device: torch.device

    def train_batches(self, epoch: int, first: int) -> data.Batches:
        """This process's share of the training images of an epoch, without its first steps."""
        return data.train_batches(
            self.splits,
            self.recipe.data,
            seed=self.recipe.seed,
            epoch=epoch,
            rank=distributed.rank(),
            world=distributed.world(),
            micro=self.recipe.train.accumulate,
            first=first,
        )

    def calibrate_(self, net: Elastic, widths: Sequence[Any], batches: int | None = None) -> None:
        """Give `widths` their batch-norm statistics, always from the same training images, dealt to all processes."""
        rank, world = distributed.rank(), distributed.world()
        images = data.calibration_batches(
            self.splits, self.recipe.data, seed=self.recipe.seed, rank=rank, world=world
        )
        local_batches = len(range(rank, batches or self.recipe.calibration.batches, world))
        net.calibrate(
            images,
            widths=widths,
            batches=local_batches,
            total=distributed.total if world > 1 else None,
            trunk=self.recipe.train.trunk,
        )

    def eval_batches(self, images: Any = None) -> data.Batches:
        """This process's share of the test images, or of others."""
        selected = self.splits.test if images is None else images
        return data.eval_batches(
            selected, self.recipe.data, rank=distributed.rank(), world=distributed.world()
        )

    def accuracies(self, net: Elastic) -> dict[str, float]:
        """Label -> accuracy of the listed widths on the held-out images (without any: the test images), for choosing an epoch."""
        snapshot = net.norms.snapshot()
        training = net.training
        try:
            if net.norms.policy == "shared":
                self.calibrate_(net, list(net.widths))
            scores = evaluate(net, self.eval_batches(self.splits.held_out), list(net.widths))
        finally:
            net.norms.restore_(snapshot)
            net.train(training)
        return {str(label): score.accuracy for label, score in zip(net.widths, scores, strict=True)}

    def results(self, net: Elastic, widths: Sequence[Any], listed: Sequence[Any]) -> list[dict[str, Any]]:
        """One row per width: its accuracy on the test images, from one pass over them, and its cost."""
        scores = evaluate(net, self.eval_batches(), widths)
        full = net.macs(net.space.full)
        return [
            {
                "width": str(width) if not isinstance(width, int | float) else width,
                "listed": width in listed,
                "accuracy": score.accuracy,
                "error": 1 - score.accuracy,
                "top5": score.top5,
                "top5_error": 1 - score.top5,
                "loss": score.loss,
                "images": score.images,
                "macs": int(net.macs(width)),
                "macs_slimmable": int(net.macs(width, convention="slimmable")),
                "macs_share": net.macs(width) / full,
                "params": int(net.params(width)),
                "channels": net.width(width).to_json(),
            }
            for width, score in zip(widths, scores, strict=True)
        ]


def open_run(path: Path, recipe: Recipe) -> Run:
    """Prepare data, device and threads of a recipe; touches no file.

    Raises:
        RecipeError: for a device that cannot be had.
        DataError: for data that cannot be had.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = distributed.local_device(names.device(recipe.device))
    run = Run(path=path, recipe=recipe, splits=data.load(recipe.data), device=device)
    run.train_batches(0, 0)
    return run


def check_free(path: Path, recipe: Recipe) -> None:
    """Refuse to train where that would lose something.

    Raises:
        RecipeError: if `path` holds other files than a run, or the checkpoint or results of another recipe.
    """
    if is_new(path):
        return
    begun = (path / CHECKPOINT).exists() or (path / RESULTS).exists()
    changes = recipes.differences(recipes.load(path / RECIPE), recipe) if begun else {}
    if begun:
        _check_same_pruning(path, recipe)
    changes = {
        key: change
        for key, change in changes.items()
        if key not in _HARMLESS and not key.startswith(("prune.", "gate."))
    }
    refuse_changes(path, changes)


def is_new(path: Path) -> bool:
    """Whether there is no run yet.

    Raises:
        RecipeError: other files are there.
    """
    if (path / RECIPE).exists():
        return False
    if path.is_dir() and any(path.iterdir()):
        raise RecipeError(f"{path} is not empty and holds no run; name another directory with --run")
    return True


def refuse_changes(path: Path, changes: dict[str, tuple[Any, Any]]) -> None:
    """
    Raises:
        RecipeError: there are changes, key -> (old, new), with which an interrupted training cannot go on.
    """
    if changes:
        text = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in changes.items())
        raise RecipeError(f"{path} holds a run of another recipe: {text}; name another directory with --run")


def _check_same_pruning(path: Path, recipe: Recipe) -> None:
    """A pruned folder may have moved; another pruning makes another network."""
    pruned = recipe.model.pruned
    if pruned is None or not (path / prune.ABOUT).exists() or not (Path(pruned) / prune.ABOUT).exists():
        return
    if prune.read(path)["steps"] != prune.read(pruned)["steps"]:
        raise RecipeError(
            f"{path} holds a run of another pruning than {pruned}; name another directory with --run"
        )


def claim(run: Run) -> None:
    """Make the run directory and write the resolved recipe."""
    run.path.mkdir(parents=True, exist_ok=True)
    write_text(run.path / RECIPE, recipes.dump(run.recipe))
    if run.recipe.model.pruned is not None:  # the run stands on its own, also when that folder is gone
        write_json(run.path / prune.ABOUT, prune.read(run.recipe.model.pruned))


def finished_recipe(path: Path) -> Recipe:
    """The recipe of a finished training; reads no image.

    Raises:
        RecipeError: if there is no run, or it is not finished.
    """
    for name in (RECIPE, NET, RESULTS):
        if not (path / name).exists():
            state = (
                "the training is not finished" if (path / RECIPE).exists() else "it is not a run directory"
            )
            raise RecipeError(f"{path} has no {name}: {state}; use `anywidth train RECIPE --run {path}`")
    if recipes.is_detection(path / RECIPE):
        raise RecipeError(
            f"{path} holds the run of a detector, which this verb does not know; it has train, eval, report and export"
        )
    return recipes.load(path / RECIPE)


def holds_detector(path: Path) -> bool:
    """Whether this is the run of a detector."""
    return (path / RECIPE).exists() and recipes.is_detection(path / RECIPE)


def finished_run(path: Path) -> Run:
    """Open the directory of a finished training.

    Raises:
        RecipeError: if there is no run, or it is not finished.
        DataError: for data that cannot be had.
    """
    return open_run(path, finished_recipe(path))


def listed_widths(recipe: Recipe) -> dict[Any, Any]:
    """Label -> what `Elastic` takes for a listed width."""
    listed = recipe.widths.listed
    if isinstance(listed, str):
        return {member.label: member.width for member in read_front(Path(listed)).members}
    if isinstance(listed, dict):
        return dict(listed)
    return {ratio: ratio for ratio in listed}


def new_net(run: Run) -> Elastic:
    """The elastic network of a recipe, its weights fixed by its seed or read from a file."""
    section = run.recipe.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.recipe.seed)
        model = _model(run, fresh=section.scratch != "no")
    net = made_elastic(model, example(run), run.recipe)
    _check_classes(run, net)
    if section.weights is not None:
        interop.load_wide_(net, Path(section.weights), sort=section.sort)
    return net.to(run.device)


def made_elastic(model: torch.nn.Module, x: Tensor, recipe: Recipe) -> Elastic:
    """`model` with the channel groups, norms and listed widths of a recipe; x: (1, C, H, W), one image."""
    section, space = recipe.elastic, None
    if section.join:
        space = joined(
            probed_space(model, x, section.freeze, section.divisor, section.minimum), dict(section.join)
        )
    return Elastic(
        model,
        x,
        norm=section.norm,
        widths=listed_widths(recipe),
        divisor=section.divisor,
        minimum=section.minimum,
        freeze=section.freeze,
        space=space,
    )


def _model(run: Run, *, fresh: bool) -> torch.nn.Module:
    """The plain network: the one that is named, or what a pruning left of it."""
    section = run.recipe.model
    network = names.build_model(section.name, section.kwargs)
    if section.pruned is None:
        return network
    metadata = prune.read(section.pruned)
    if (metadata.get("model"), metadata.get("kwargs")) != (section.name, section.kwargs):
        raise RecipeError(
            f"{section.pruned} holds a pruned {metadata.get('model')} with {metadata.get('kwargs')}; the recipe says model.name = "
            f"{section.name!r} with {section.kwargs}"
        )
    return prune.rebuilt(section.pruned, network, example(run), fresh=fresh)


@torch.no_grad()
def _check_classes(run: Run, net: Elastic) -> None:
    """A label that is no logit would stop the training deep inside the loss."""
    training = net.training
    logits = net.eval()(example(run))
    net.train(training)
    classes = len(run.splits.classes)
    if logits.ndim != 2 or logits.shape[1] < classes:
        raise RecipeError(
            f"model {run.recipe.model.name!r} gives {logits.shape[-1]} logits for the {classes} classes of the data; set "
            f"model.kwargs.num_classes = {classes}"
        )


def saved_net(run: Run) -> Elastic:
    """The trained network of a finished run."""
    section = run.recipe.model
    model = names.build_model(section.name, section.kwargs)
    if section.pruned is not None:
        model = prune.again(model, example(run), prune.read(run.path)["steps"])
    net = load(run.path / NET, model).to(run.device)
    net.set_example_(example(run))
    return net


def example(run: Run) -> Tensor:
    """(1, C, H, W): one image, so that costs are those of one image."""
    return next(iter(data.eval_batches(run.splits.test, run.recipe.data, batch_size=1)))[0][:1]


def read_results(path: Path) -> dict[str, Any]:
    """A JSON file that a verb wrote.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); remove it and write it again") from error
    if not isinstance(results, dict) or not isinstance(results.get("rows"), list) or not results["rows"]:
        raise CheckpointError(f"{path}: holds no rows of results; remove it and write it again")
    return results
