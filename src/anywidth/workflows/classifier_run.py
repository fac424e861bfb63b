"""The run of a classifier with its images: batches, calibration, accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anywidth import data
from anywidth.elastic import Elastic
from anywidth.recipe import Recipe
from anywidth.train import distributed, evaluate
from anywidth.workflows.naming import device_named


@dataclass(frozen=True, kw_only=True)
class ClassifierRun:
    """A run directory of a classifier, its recipe and its images."""

    path: Path
    recipe: Recipe
    splits: data.Splits
    device: torch.device

    def train_batches(self, epoch: int, skipped_steps: int) -> data.Batches:
        """This process's share of the training images of an epoch, without its first steps."""
        return data.train_batches(
            self.splits,
            self.recipe.data,
            seed=self.recipe.seed,
            epoch=epoch,
            rank=distributed.rank(),
            world=distributed.world(),
            micro=self.recipe.train.accumulate,
            first=skipped_steps,
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


def open_classifier(path: Path, recipe: Recipe) -> ClassifierRun:
    """Prepare data, device and threads of a recipe; touches no file.

    Raises:
        RecipeError: for a device that cannot be had.
        DataError: for data that cannot be had.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = distributed.local_device(device_named(recipe.device))
    run = ClassifierRun(path=path, recipe=recipe, splits=data.load(recipe.data), device=device)
    run.train_batches(0, 0)
    return run


def example_image(run: ClassifierRun) -> Tensor:
    """(1, C, H, W): one image, so that costs are those of one image."""
    return next(iter(data.eval_batches(run.splits.test, run.recipe.data, batch_size=1)))[0][:1]
