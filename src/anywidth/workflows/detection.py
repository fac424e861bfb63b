"""The task of a recipe for detectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anywidth import detect
from anywidth import recipe as recipes
from anywidth.detect import DetectionLoss
from anywidth.detect.evaluate import objects
from anywidth.detect.pictures import draw_detections
from anywidth.detect.results import Kind
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.files import replacing
from anywidth.recipe import DetectionRecipe
from anywidth.train import Draw, FitConfig, distributed
from anywidth.workflows.detector_export import detector_exports
from anywidth.workflows.detector_network import new_detector, norms_learn, saved_detector
from anywidth.workflows.detector_run import DetectorRun, open_detector
from anywidth.workflows.latencies import detector_latencies
from anywidth.workflows.naming import widths_of
from anywidth.workflows.pictures import draw_precisions
from anywidth.workflows.recipe_task import Export, RecipeTask
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.run_files import RECIPE, is_begun, is_new, refuse_changes, write_recipe
from anywidth.workflows.tables import TextTable, precision_tables
from anywidth.workflows.task_options import EvaluationOptions, ExportOptions

_FIGURE = "report.png"
_PICTURES = 4
_HARMLESS = ("data.root", "data.workers", "data.eval_batch_size", "train.log_every", "train.tensorboard")
"""Keys that change no weight of this run: an interrupted training may go on with others."""


@dataclass(frozen=True)
class DetectionTask(RecipeTask[DetectorRun]):
    """Images to boxes, masks or keypoints."""

    recipe: DetectionRecipe

    @property
    def model_name(self) -> str:
        return self.recipe.detector.name

    def check_free(self, path: Path) -> None:
        if is_new(path) or not is_begun(path):
            return
        if not recipes.is_detection(path / RECIPE):
            raise RecipeError(f"{path} holds the run of a classifier; name another directory with --run")
        changes = recipes.differences(recipes.load_detection(path / RECIPE), self.recipe)
        refuse_changes(path, {key: change for key, change in changes.items() if key not in _HARMLESS})

    def open(self, path: Path) -> DetectorRun:
        return open_detector(path, self.recipe)

    def claim(self, path: Path) -> None:
        write_recipe(path, self.recipe)

    def new_net(self, run: DetectorRun, reporter: Reporter) -> Elastic:
        return new_detector(run, reporter)

    def saved_net(self, run: DetectorRun) -> Elastic:
        return saved_detector(run)

    def prepare_device_(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)

    def policy(self, run: DetectorRun, net: Elastic) -> Draw:
        return self.recipe.widths.draw(net)

    def fit_config(self) -> FitConfig:
        return self.recipe.train

    def losses(self) -> DetectionLoss:
        return self.recipe.losses

    def scores(self, run: DetectorRun, net: Elastic) -> dict[str, float]:
        """Label -> AP of boxes on the test images."""
        snapshot = net.norms.snapshot()
        try:
            if norms_learn(net):
                run.calibrate_(net, list(net.widths))
            rows = run.rows(net, list(net.widths), (), ("bbox",))
        finally:
            net.norms.restore_(snapshot)
        ap_by_width = {str(row["width"]): row["metrics"]["bbox"]["AP"] for row in rows}
        return distributed.from_first(lambda: ap_by_width)

    def finish_(
        self, run: DetectorRun, net: Elastic, draw: Draw
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        listed = list(net.widths)
        if norms_learn(net):  # averages of a training lag behind its weights
            run.calibrate_(net, listed)
        return run.rows(net, listed, listed, detect.kinds_of(net.model)), {}

    def data_facts(self, run: DetectorRun) -> dict[str, Any]:
        return {}

    def check_evaluation(self, options: EvaluationOptions) -> None:
        if options.front is not None:
            raise WidthError("anywidth eval: fronts are of classifiers; a detector takes --widths")
        if options.widths is None:
            raise WidthError("anywidth eval: say which widths: --widths 0.25,0.5,1.0 or --widths listed")

    def calibrated_widths_(
        self, run: DetectorRun, net: Elastic, options: EvaluationOptions, reporter: Reporter
    ) -> list[Any]:
        widths = list(dict.fromkeys(widths_of(net, options.widths or ())))
        _named_kinds(net, options.metrics)  # a mistake is said before the work of calibrating
        if missing := [width for width in widths if not net.has_statistics(width)]:
            for width in missing:
                net.norms.overrides(net.width(width))  # with switchable norms only trained widths exist
            reporter.say(f"calibrating {', '.join(map(str, missing))}")
            run.calibrate_(net, missing)
        return widths

    def rows(
        self,
        run: DetectorRun,
        net: Elastic,
        widths: Sequence[Any],
        listed: Sequence[Any],
        options: EvaluationOptions,
    ) -> list[dict[str, Any]]:
        return run.rows(net, widths, listed, _named_kinds(net, options.metrics), options.backend)

    def latencies(self, run: DetectorRun, net: Elastic, widths: Sequence[Any]) -> list[float]:
        return detector_latencies(net, widths, self.recipe.detector.size)

    def check_export(self, options: ExportOptions) -> None:
        if options.front is not None:
            raise WidthError("anywidth export: fronts are of classifiers; a detector takes --width")
        if options.width is None:
            raise WidthError("anywidth export: say which width: --width 0.5")

    def exports(
        self, run: DetectorRun, net: Elastic, options: ExportOptions, reporter: Reporter
    ) -> Iterator[Export]:
        return detector_exports(run, net, options, reporter)

    def merged(self, row: dict[str, Any] | None, evaluated: dict[str, Any]) -> dict[str, Any]:
        """An evaluation may have measured some of the kinds only."""
        trained = row["metrics"] if row is not None else {}
        return {**evaluated, "metrics": {**trained, **evaluated["metrics"]}}

    def draw(self, path: Path, results: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
        run = self.open(path)
        with replacing(path / _FIGURE) as temporary:
            draw_precisions(rows, title=f"{results['model']}: one set of weights", path=temporary)
        return [_FIGURE, *_draw_found_objects(run)]

    def tables(self, title: str, rows: Sequence[dict[str, Any]]) -> tuple[TextTable, ...]:
        return precision_tables(title, rows)


def _named_kinds(net: Elastic, metrics: Sequence[str] | None) -> tuple[Kind, ...]:
    known = detect.kinds_of(net.model)
    if metrics is None:
        return known
    for iou_type in metrics:
        if iou_type not in known:
            raise WidthError(
                f"--metrics {iou_type}: {type(net.model).__name__} gives {', '.join(known)}; name some of these, like --metrics bbox"
            )
    return tuple(iou_type for iou_type in known if iou_type in metrics)


def _draw_found_objects(run: DetectorRun) -> list[str]:
    """The first test images that have something on them, with what every listed width finds."""
    net = saved_detector(run).eval()
    figures: list[str] = []
    for position in range(len(run.splits.test)):
        image, target = run.splits.test.item(position)
        if len(target["boxes"]) == 0:
            continue
        with torch.inference_mode():
            device_images, classes = [image.to(run.device)], len(run.splits.classes)
            outputs = {str(label): objects(net.at(label)(device_images), classes)[0] for label in net.widths}
        name = f"detections-{len(figures) + 1}.png"
        with replacing(run.path / name) as temporary:
            draw_detections(
                image, outputs, classes=run.splits.classes, path=temporary, truth=target, title=f"image {int(target['image_id'])}"
            )  # fmt: skip
        figures.append(name)
        if len(figures) == _PICTURES:
            break
    return figures
