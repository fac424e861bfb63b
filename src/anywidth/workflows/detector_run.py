"""The run of a detector with its images: batches, calibration, average precisions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from anywidth import data, detect
from anywidth.data.coco_config import Need
from anywidth.detect.costs import part_macs
from anywidth.detect.metrics import PERSON, Backend, coco_metrics
from anywidth.detect.parts import check_detector
from anywidth.detect.results import Kind, of_kind
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.files import write_json
from anywidth.import_path import call_with, find
from anywidth.models import detectors
from anywidth.recipe import DetectionRecipe
from anywidth.train import distributed
from anywidth.workflows.naming import device_named

DETECTIONS = "detections"
_NEEDS: dict[str, Need] = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}


@dataclass(frozen=True, kw_only=True)
class DetectorRun:
    """A run directory of a detector, its recipe and its images."""

    path: Path
    recipe: DetectionRecipe
    splits: data.CocoSplits
    device: torch.device

    def train_batches(self, epoch: int, skipped_steps: int) -> data.Batches:
        """This process's share of the training images of an epoch, without its first steps."""
        return data.coco_train_batches(
            self.splits.train,
            self.recipe.data,
            seed=self.recipe.seed,
            epoch=epoch,
            rank=distributed.rank(),
            world=distributed.world(),
            micro=self.recipe.train.accumulate,
            first=skipped_steps,
        )

    def calibrate_(self, net: Elastic, widths: Sequence[Any]) -> None:
        """Give `widths` their batch-norm statistics, always from the same training images, dealt to all processes."""
        rank, world = distributed.rank(), distributed.world()
        batches = data.coco_train_batches(
            self.splits.train, self.recipe.data, seed=self.recipe.seed, epoch=0, rank=rank, world=world
        )
        count = max(1, min(self.recipe.calibration.batches, len(batches)))
        net.calibrate(batches, widths=widths, batches=count, total=distributed.total if world > 1 else None)

    def detections(
        self, net: Elastic, widths: Sequence[Any], kinds: Collection[Kind]
    ) -> list[list[dict[str, Any]]]:
        """Detections on the test images at every width, of all processes."""
        batches = data.coco_eval_batches(
            self.splits.test, self.recipe.data, rank=distributed.rank(), world=distributed.world()
        )
        local_results = detect.detections(net, batches, widths, self.splits.raw_ids, kinds, spare=True)
        return [
            list(chain.from_iterable(shards))
            for shards in zip(*distributed.gathered(local_results), strict=True)
        ]

    def rows(
        self,
        net: Elastic,
        widths: Sequence[Any],
        listed: Collection[Any],
        kinds: Collection[Kind],
        backend: Backend = "faster_coco_eval",
    ) -> list[dict[str, Any]]:
        """One row per width: average precision on the test images, and cost; detections are written beside, by width and kind."""
        results_by_width = self.detections(net, widths, kinds)
        if distributed.rank() != 0:
            return []
        return [
            self._row(net, width, results, width in listed, kinds, backend)
            for width, results in zip(widths, results_by_width, strict=True)
        ]

    def _row(
        self,
        net: Elastic,
        width: Any,
        results: list[dict[str, Any]],
        listed: bool,
        kinds: Collection[Kind],
        backend: Backend,
    ) -> dict[str, Any]:
        truth = self.splits.test.images.coco.dataset
        metrics = coco_metrics(
            truth,
            results,
            kinds,
            backend=backend,
            image_ids=self.splits.test.ids,
            sigmas=self.recipe.data.sigmas or None,
        )
        (self.path / DETECTIONS).mkdir(parents=True, exist_ok=True)
        for iou_type in kinds:
            write_json(self.path / DETECTIONS / f"{width}-{iou_type}.json", of_kind(results, iou_type))
        macs_by_part = part_macs(net, width)
        return {
            "width": width if isinstance(width, int | float) else str(width),
            "listed": listed,
            "metrics": metrics,
            "images": len(self.splits.test),
            "macs": macs_by_part["total"],
            "macs_of_parts": macs_by_part,
            "macs_share": macs_by_part["total"] / part_macs(net, net.space.full)["total"],
            "params": int(net.params(width)),
            "channels": net.width(width).to_json(),
        }


def open_detector(path: Path, recipe: DetectionRecipe) -> DetectorRun:
    """Prepare data, device and threads of a recipe; touches no file.

    Raises:
        DataError: for data that cannot be had.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = distributed.local_device(device_named(recipe.device))
    two_classes = plain_detector(recipe, 2)
    needs: list[Need] = [_NEEDS[iou_type] for iou_type in detect.kinds_of(two_classes)]
    run = DetectorRun(path=path, recipe=recipe, splits=data.load_coco(recipe.data, needs), device=device)
    if "keypoints" in needs:
        _check_sigmas(len(run.splits.keypoints), len(recipe.data.sigmas))
    run.train_batches(0, 0)
    share = recipe.data.batch_size // (distributed.world() * recipe.train.accumulate)
    if share < 2 and recipe.detector.name.startswith("ssdlite320") and not recipe.detector.constant_norms:
        raise RecipeError(
            "data.batch_size: batch norms of SSDlite see single pixels, so each process and micro-batch needs two images or more; "
            f"now {share}"
        )
    return run


def _check_sigmas(keypoints: int, sigmas: int) -> None:
    if keypoints != (sigmas or PERSON):
        have = f"data.sigmas has {sigmas}" if sigmas else f"data.sigmas is of COCO's {PERSON}"
        raise RecipeError(
            f"the data has {keypoints} keypoints, and {have}; give the spread of each keypoint, by which they are measured"
        )


def _options(recipe: DetectionRecipe, classes: int) -> dict[str, Any]:
    """Arguments of torchvision's class."""
    section = recipe.detector
    resized = {"min_size": section.min_size, "max_size": section.max_size}
    if section.name.startswith("ssdlite320"):  # its images have one size
        resized = {}
    clash = sorted({*resized, "num_classes", "weights"} & set(section.kwargs))
    if clash:
        raise RecipeError(f"detector.kwargs: {', '.join(clash)} is set by a key of the section detector")
    return {"num_classes": classes, **resized, **section.kwargs}


def plain_detector(recipe: DetectionRecipe, classes: int, keypoints: int = 0) -> torch.nn.Module:
    """The detector of a recipe, not elastic, with fresh weights.

    Args:
        recipe: of the run.
        classes: with the background.
        keypoints: of an object; 0 for torchvision's number.

    Raises:
        RecipeError: for arguments that its class refuses.
    """
    options = _options(recipe, classes)
    if keypoints:
        options.setdefault("num_keypoints", keypoints)
    name = recipe.detector.name
    try:
        if ":" in name:  # a detector of the user's own takes those of the options that it names
            kwargs = recipe.detector.kwargs
            offered = {key: value for key, value in options.items() if key not in kwargs}
            model = call_with("detector", name, find("detector", name, {}), offered, kwargs)
            check_detector(model)
            return model
        return detectors.detector(name, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"detector.kwargs: {error}") from None
