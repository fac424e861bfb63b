"""The run directory: what is in it, and how a verb opens it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from anywidth import data
from anywidth import recipe as recipes
from anywidth.cli import names
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, RecipeError
from anywidth.files import write_text
from anywidth.recipe import Recipe
from anywidth.store import load
from anywidth.train import CHECKPOINT, evaluate

RECIPE, NET, RESULTS, EVALUATION = "recipe.yaml", "net.safetensors", "results.json", "eval.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory, its recipe and its images."""

    path: Path
    recipe: Recipe
    splits: data.Splits
    device: torch.device

    def train_batches(self, generator: torch.Generator) -> DataLoader[tuple[Tensor, ...]]:
        """Training images in an order given by `generator`."""
        return data.loader(self.splits.train, batch_size=self.recipe.data.batch_size, generator=generator)

    def calibrate_(self, net: Elastic, widths: list[Any]) -> None:
        """Give `widths` their batch-norm statistics, always from the same training images."""
        generator = torch.Generator().manual_seed(self.recipe.seed)
        batches = ((x.to(self.device),) for x, _ in self.train_batches(generator))
        net.calibrate(batches, widths=widths, batches=self.recipe.calibration.batches)

    def result(self, net: Elastic, width: Any) -> dict[str, Any]:
        """One row of results: the test accuracy of a width, and its cost."""
        score = evaluate(net, data.loader(self.splits.test, batch_size=256), width)
        return {
            "width": width,
            "listed": width in self.recipe.widths.listed,
            "accuracy": score.accuracy,
            "loss": score.loss,
            "images": score.images,
            "macs": int(net.macs(width)),
            "macs_share": net.macs(width) / net.macs(net.space.full),
            "params": int(net.params(width)),
        }


def open_run(path: Path, recipe: Recipe) -> Run:
    """Prepare data, device and threads of a recipe; touches no file.

    Raises:
        RecipeError: for data or a device that cannot be had.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    try:
        splits = data.digits(test_fraction=recipe.data.test_fraction, seed=recipe.data.seed)
        run = Run(path=path, recipe=recipe, splits=splits, device=names.device(recipe.device))
        run.train_batches(torch.Generator())
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return run


def check_free(path: Path, recipe: Recipe) -> None:
    """Refuse to train where that would lose something.

    Raises:
        RecipeError: if `path` holds other files than a run, or the checkpoint or results of another recipe.
    """
    if not (path / RECIPE).exists():
        if path.is_dir() and any(path.iterdir()):
            raise RecipeError(f"{path} is not empty and holds no run; name another directory with --run")
        return
    begun = (path / CHECKPOINT).exists() or (path / RESULTS).exists()
    if begun and (changes := recipes.differences(recipes.load(path / RECIPE), recipe)):
        text = ", ".join(f"{key} was {old!r} and is {new!r}" for key, (old, new) in changes.items())
        raise RecipeError(f"{path} holds a run of another recipe: {text}; name another directory with --run")


def claim(run: Run) -> None:
    """Make the run directory and write the resolved recipe."""
    run.path.mkdir(parents=True, exist_ok=True)
    write_text(run.path / RECIPE, recipes.dump(run.recipe))


def finished_run(path: Path) -> Run:
    """Open the directory of a finished training.

    Raises:
        RecipeError: if there is no run, or it is not finished.
    """
    for name in (RECIPE, NET, RESULTS):
        if not (path / name).exists():
            state = (
                "the training is not finished" if (path / RECIPE).exists() else "it is not a run directory"
            )
            raise RecipeError(f"{path} has no {name}: {state}; use `anywidth train RECIPE --run {path}`")
    return open_run(path, recipes.load(path / RECIPE))


def new_net(run: Run) -> Elastic:
    """The elastic network of a recipe with fresh weights, fixed by its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.recipe.seed)
        model = names.build_model(run.recipe.model.name, run.recipe.model.kwargs)
    elastic = run.recipe.elastic
    net = Elastic(
        model,
        example(run),
        norm=elastic.norm,
        widths=list(run.recipe.widths.listed),
        divisor=elastic.divisor,
        freeze=elastic.freeze,
    )
    return net.to(run.device)


def saved_net(run: Run) -> Elastic:
    """The trained network of a finished run."""
    model = names.build_model(run.recipe.model.name, run.recipe.model.kwargs)
    return load(run.path / NET, model).to(run.device)


def example(run: Run) -> Tensor:
    """(1, C, H, W): one training image, so that costs are those of one image."""
    return run.splits.train[0][0].unsqueeze(0)


def read_results(path: Path) -> dict[str, Any]:
    """A JSON file that a verb wrote.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); remove it and write it again") from error
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list) or not found["rows"]:
        raise CheckpointError(f"{path}: holds no rows of results; remove it and write it again")
    return found
