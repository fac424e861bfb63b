"""The task of a recipe for classifiers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anywidth import prune
from anywidth import recipe as recipes
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.files import replacing, write_json
from anywidth.recipe import Recipe
from anywidth.search import write_front
from anywidth.train import Draw, FitConfig, distributed, policies
from anywidth.train.sparsity import histogram, scales_of
from anywidth.workflows.classifier_export import classifier_exports
from anywidth.workflows.classifier_network import new_classifier, saved_classifier
from anywidth.workflows.classifier_run import ClassifierRun, example_image, open_classifier
from anywidth.workflows.joint_search import searching_policy
from anywidth.workflows.latencies import image_latencies
from anywidth.workflows.naming import front_widths, widths_of
from anywidth.workflows.pictures import draw_accuracies, draw_scales
from anywidth.workflows.recipe_task import Export, RecipeTask
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.run_files import FRONT, RECIPE, is_begun, is_new, refuse_changes, write_recipe
from anywidth.workflows.tables import TextTable, accuracy_table
from anywidth.workflows.task_options import EvaluationOptions, ExportOptions

FIGURE, SCALES = "report.png", "scales.png"
_HARMLESS = (
    "data.root", "data.workers", "data.corrupt_limit", "train.log_every", "train.tensorboard", "model.pruned", "prune", "gate",
)  # fmt: skip
"""Keys and sections that change no weight of this run: an interrupted training may go on with others."""


@dataclass(frozen=True)
class ClassificationTask(RecipeTask[ClassifierRun]):
    """Images to classes."""

    recipe: Recipe

    @property
    def model_name(self) -> str:
        return self.recipe.model.name

    def check_free(self, path: Path) -> None:
        if is_new(path) or not is_begun(path):
            return
        changes = recipes.differences(recipes.load(path / RECIPE), self.recipe)
        _check_same_pruning(path, self.recipe)
        refuse_changes(
            path,
            {
                key: change
                for key, change in changes.items()
                if key not in _HARMLESS and not key.startswith(("prune.", "gate."))
            },
        )

    def open(self, path: Path) -> ClassifierRun:
        return open_classifier(path, self.recipe)

    def claim(self, path: Path) -> None:
        write_recipe(path, self.recipe)
        if self.recipe.model.pruned is not None:  # the run stands on its own, also when that folder is gone
            write_json(path / prune.ABOUT, prune.read(self.recipe.model.pruned))

    def new_net(self, run: ClassifierRun, reporter: Reporter) -> Elastic:
        return new_classifier(run)

    def saved_net(self, run: ClassifierRun) -> Elastic:
        return saved_classifier(run)

    def prepare_device_(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.deterministic = True

    def policy(self, run: ClassifierRun, net: Elastic) -> Draw:
        widths = self.recipe.widths
        if self.recipe.prune is not None:  # before hours of training, not after
            prune.criterion_of(self.recipe.prune.criterion)
        if policies.policy_of(widths.policy).searches:
            return searching_policy(run, net)
        return widths.draw(net)

    def fit_config(self) -> FitConfig:
        """Weights that were read keep their scales, and a network from scratch with as many multiply-adds as the wide one
        has more epochs (arXiv 1810.05270, Scratch-B)."""
        config, model = self.recipe.train, self.recipe.model
        if model.weights is not None or (model.pruned is not None and model.scratch == "no"):
            config = dataclasses.replace(config, sparsity=dataclasses.replace(config.sparsity, init=0.0))
        if model.scratch != "compute":
            return config
        pruning = prune.read(model.pruned or "")
        epochs = max(1, int(config.epochs * pruning["macs_of_the_first"] / pruning["macs"]))
        milestones = tuple(m * epochs / config.epochs for m in config.milestones)
        return dataclasses.replace(config, epochs=epochs, milestones=milestones)

    def losses(self) -> None:
        return None

    def scores(self, run: ClassifierRun, net: Elastic) -> dict[str, float]:
        return run.accuracies(net)

    def finish_(
        self, run: ClassifierRun, net: Elastic, draw: Draw
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        proposer: Any = getattr(draw, "proposer", None)
        if hasattr(proposer, "present_front") and distributed.rank() == 0:
            write_front(run.path / FRONT, proposer.present_front())
        listed = list(net.widths)
        if (
            self.recipe.elastic.norm == "shared"
        ):  # switchable norms keep the statistics they were trained with
            run.calibrate_(net, listed)
        rows = run.results(net, listed, listed)
        scales = scales_of(net)
        return rows, {"scales": histogram(scales.values())} if scales else {}

    def data_facts(self, run: ClassifierRun) -> dict[str, Any]:
        return {"corrupt_images": run.splits.corrupt()}

    def check_evaluation(self, options: EvaluationOptions) -> None:
        if options.metrics is not None or options.backend != "faster_coco_eval":
            raise WidthError("anywidth eval: --metrics and --backend are for detectors")
        if options.widths is None and options.front is None:
            raise WidthError(
                "anywidth eval: say which widths: --widths 0.25,0.5,1.0, --widths listed, --front FILE, or --pareto"
            )

    def calibrated_widths_(
        self, run: ClassifierRun, net: Elastic, options: EvaluationOptions, reporter: Reporter
    ) -> list[Any]:
        widths = _named_widths_(net, options)
        if missing := [width for width in widths if not net.has_statistics(width)]:
            reporter.say(f"calibrating {', '.join(map(str, missing))}")
            run.calibrate_(net, missing)
        return widths

    def rows(
        self,
        run: ClassifierRun,
        net: Elastic,
        widths: Sequence[Any],
        listed: Sequence[Any],
        options: EvaluationOptions,
    ) -> list[dict[str, Any]]:
        return run.results(net, widths, listed)

    def latencies(self, run: ClassifierRun, net: Elastic, widths: Sequence[Any]) -> list[float]:
        return image_latencies(net, widths, example_image(run))

    def check_export(self, options: ExportOptions) -> None:
        if options.front is None and options.width is None:
            raise WidthError("anywidth export: say which width: --width 0.5, or --front FILE")

    def exports(
        self, run: ClassifierRun, net: Elastic, options: ExportOptions, reporter: Reporter
    ) -> Iterator[Export]:
        return classifier_exports(run, net, options, reporter)

    def merged(self, row: dict[str, Any] | None, evaluated: dict[str, Any]) -> dict[str, Any]:
        return evaluated

    def draw(self, path: Path, results: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
        with replacing(path / FIGURE) as temporary:
            draw_accuracies(rows, title=f"{results['model']}: one set of weights", path=temporary)
        if not isinstance(results.get("scales"), dict):
            return [FIGURE]
        with replacing(path / SCALES) as temporary:
            draw_scales(results["scales"], title=f"{results['model']}: batch-norm scales", path=temporary)
        return [FIGURE, SCALES]

    def tables(self, title: str, rows: Sequence[dict[str, Any]]) -> tuple[TextTable, ...]:
        return (accuracy_table(title, rows),)


def _check_same_pruning(path: Path, recipe: Recipe) -> None:
    """A pruned folder may have moved; another pruning makes another network."""
    pruned = recipe.model.pruned
    if pruned is None or not (path / prune.ABOUT).exists() or not (Path(pruned) / prune.ABOUT).exists():
        return
    if prune.read(path)["steps"] != prune.read(pruned)["steps"]:
        raise RecipeError(
            f"{path} holds a run of another pruning than {pruned}; name another directory with --run"
        )


def _named_widths_(net: Elastic, options: EvaluationOptions) -> list[Any]:
    """Labels and ratios; the members of a front are listed under their labels."""
    widths: list[Any] = []
    if options.widths is not None:
        widths += widths_of(net, options.widths)
    if options.front is not None:
        for name, width in front_widths(options.front, net).items():
            label = f"{options.front.stem}:{name}"
            net.norms.overrides(width)  # with switchable norms only trained widths exist
            net.list_width_(label, width)
            widths.append(label)
    return list(dict.fromkeys(widths))
