"""The run directory of a detector: what is in it, and how a verb opens it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from anywidth import data, detect, interop
from anywidth import recipe as recipes
from anywidth.cli import names
from anywidth.cli.console import say
from anywidth.cli.run import NET, RECIPE, RESULTS, is_new, refuse_changes
from anywidth.data.coco_config import Need
from anywidth.detect.costs import part_macs
from anywidth.detect.metrics import PERSON, Backend, coco_metrics
from anywidth.detect.results import Kind, of_kind
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.files import write_json, write_text
from anywidth.models import detectors
from anywidth.norms.bank import batch_norms
from anywidth.recipe import DetectionRecipe
from anywidth.store import load
from anywidth.train import CHECKPOINT, distributed

FOUND = "detections"
_NEEDS: dict[str, Need] = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
_HARMLESS = ("data.root", "data.workers", "data.eval_batch_size", "train.log_every", "train.tensorboard")


@dataclass(frozen=True, kw_only=True)
class DetectorRun:
    """A run directory, its recipe and its images."""

    path: Path
    recipe: DetectionRecipe
    splits: data.CocoSplits
    device: torch.device

    def train_batches(self, epoch: int, first: int) -> data.Batches:
        """This process's share of the training images of an epoch, without its first steps."""
        return data.coco_train_batches(
            self.splits.train,
            self.recipe.data,
            seed=self.recipe.seed,
            epoch=epoch,
            rank=distributed.rank(),
            world=distributed.world(),
            micro=self.recipe.train.accumulate,
            first=first,
        )

    def calibrate_(self, net: Elastic, widths: Sequence[Any]) -> None:
        """Give `widths` their batch-norm statistics, always from the same training images, dealt to all processes."""
        rank, world = distributed.rank(), distributed.world()
        batches = data.coco_train_batches(
            self.splits.train, self.recipe.data, seed=self.recipe.seed, epoch=0, rank=rank, world=world
        )
        count = max(1, min(self.recipe.calibration.batches, len(batches)))
        net.calibrate(batches, widths=widths, batches=count, total=distributed.total if world > 1 else None)

    def found(
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
        results_by_width = self.found(net, widths, kinds)
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
        (self.path / FOUND).mkdir(parents=True, exist_ok=True)
        for iou_type in kinds:
            write_json(self.path / FOUND / f"{width}-{iou_type}.json", of_kind(results, iou_type))
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
    device = distributed.local_device(names.device(recipe.device))
    blank = _built(recipe, _options(recipe, 2))
    needs: list[Need] = [_NEEDS[iou_type] for iou_type in detect.kinds_of(blank)]
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


def check_free_detector(path: Path, recipe: DetectionRecipe) -> None:
    """Refuse to train where that would lose something.

    Raises:
        RecipeError: if `path` holds other files than a run, or the checkpoint or results of another recipe.
    """
    if is_new(path):
        return
    if not ((path / CHECKPOINT).exists() or (path / RESULTS).exists()):
        return
    if not recipes.is_detection(path / RECIPE):
        raise RecipeError(f"{path} holds the run of a classifier; name another directory with --run")
    changes = recipes.differences(recipes.load_detection(path / RECIPE), recipe)
    refuse_changes(path, {key: change for key, change in changes.items() if key not in _HARMLESS})


def claim_detector(run: DetectorRun) -> None:
    """Make the run directory and write the resolved recipe."""
    run.path.mkdir(parents=True, exist_ok=True)
    write_text(run.path / RECIPE, recipes.dump(run.recipe))


def finished_detector(path: Path) -> DetectorRun:
    """Open the directory of a finished training.

    Raises:
        RecipeError: if there is no run, or it is not finished.
        DataError: for data that cannot be had.
    """
    for name in (RECIPE, NET, RESULTS):
        if not (path / name).exists():
            raise RecipeError(
                f"{path} has no {name}: the training is not finished; use `anywidth train RECIPE --run {path}`"
            )
    return open_detector(path, recipes.load_detection(path / RECIPE))


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


def _classes(run: DetectorRun) -> int:
    """Classes of the detector, with the background."""
    num_classes, needed = run.recipe.detector.num_classes, 1 + len(run.splits.classes)
    if num_classes is not None and num_classes < needed:
        raise RecipeError(
            f"detector.num_classes = {num_classes}: the data has {needed - 1} categories, so {needed} with the background are needed"
        )
    return num_classes or needed


def _model(run: DetectorRun) -> torch.nn.Module:
    options = _options(run.recipe, _classes(run))
    if run.splits.keypoints:
        options.setdefault("num_keypoints", len(run.splits.keypoints))
    return _built(run.recipe, options)


def _built(recipe: DetectionRecipe, options: dict[str, Any]) -> torch.nn.Module:
    try:
        return detectors.detector(recipe.detector.name, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"detector.kwargs: {error}") from None


def new_detector(run: DetectorRun) -> Elastic:
    """The elastic detector of a recipe, its weights fixed by its seed or read from files."""
    section, listed = run.recipe.detector, run.recipe.widths.listed
    widths: Any = listed  # a mapping of labels is taken too
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.recipe.seed)
        model = _model(run)
    try:
        net = detect.elastic_detector(
            model,
            preset=section.preset,
            parts=section.parts or None,
            widths=widths,
            norm=section.norm,
            constant_norms=_constant(run),
            backbone=_backbone(run),
            trainable_layers=section.trainable_layers,
            size=section.size,
            divisor=section.divisor,
            minimum=section.minimum,
            freeze=section.freeze,
        )
        run.recipe.losses.check(net)
    except ValueError as error:
        if isinstance(error, WidthError):
            raise
        raise RecipeError(f"detector: {error}") from None
    _check_policy(net, run.recipe.widths.policy)
    net.to(run.device)
    if section.weights is not None:
        interop.load_wide_(net, Path(section.weights))
        if net.norms.policy != "frozen" and (
            narrow := [w for w in net.widths.values() if w != net.space.full]
        ):
            say(f"calibrating {len(narrow)} widths of ordinary weights")
            run.calibrate_(net, narrow)
    return net


def _check_policy(net: Elastic, rule: str) -> None:
    if net.norms.constant and batch_norms(net.model) and rule not in ("listed", "listed_sandwich", "min_max"):
        raise RecipeError(
            f"the batch norms of this detector are constants of the listed widths, and widths.policy = {rule!r} draws widths that "
            "have none; set detector.constant_norms to false, or train listed widths"
        )


def _constant(run: DetectorRun) -> bool | None:
    """Norms that were never measured anywhere learn: constants would be those of no data at all."""
    section = run.recipe.detector
    if section.constant_norms is not None:
        return section.constant_norms
    if section.weights is None and section.backbone is None:
        return False
    return None


def _backbone(run: DetectorRun) -> Elastic | None:
    section = run.recipe.detector.backbone
    if section is None:
        return None
    return load(Path(section.weights), names.build_model(section.name, dict(section.kwargs)))


def saved_detector(run: DetectorRun) -> Elastic:
    """The trained detector of a finished run."""
    model = _model(run)
    net = load(run.path / NET, model).to(run.device)
    size = run.recipe.detector.size
    net.set_example_(detectors.example_images(model, (size, size)))
    return net
