"""The elastic detector of a run: new from its recipe, or read from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anywidth import detect, interop
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, WidthError
from anywidth.models import detectors
from anywidth.norms.bank import batch_norms
from anywidth.store import load
from anywidth.train.policies import declared
from anywidth.workflows.detector_run import DetectorRun, plain_detector
from anywidth.workflows.naming import build_model
from anywidth.workflows.reporter import Reporter
from anywidth.workflows.run_files import NET


def _classes(run: DetectorRun) -> int:
    """Classes of the detector, with the background."""
    num_classes, needed = run.recipe.detector.num_classes, 1 + len(run.splits.classes)
    if num_classes is not None and num_classes < needed:
        raise RecipeError(
            f"detector.num_classes = {num_classes}: the data has {needed - 1} categories, so {needed} with the background are needed"
        )
    return num_classes or needed


def _model(run: DetectorRun) -> torch.nn.Module:
    return plain_detector(run.recipe, _classes(run), len(run.splits.keypoints))


def new_detector(run: DetectorRun, reporter: Reporter) -> Elastic:
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
            reporter.say(f"calibrating {len(narrow)} widths of ordinary weights")
            run.calibrate_(net, narrow)
    return net


def _check_policy(net: Elastic, policy: str) -> None:
    if net.norms.constant and batch_norms(net.model) and declared(policy).draws_random:
        raise RecipeError(
            f"the batch norms of this detector are constants of the listed widths, and widths.policy = {policy!r} draws widths that "
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
    return load(Path(section.weights), build_model(section.name, dict(section.kwargs)))


def saved_detector(run: DetectorRun) -> Elastic:
    """The trained detector of a finished run."""
    model = _model(run)
    net = load(run.path / NET, model).to(run.device)
    size = run.recipe.detector.size
    net.set_example_(detectors.example_images(model, (size, size)))
    return net


def norms_learn(net: Elastic) -> bool:
    """Whether a training changes the batch norms, so that the statistics of its widths are collected at its end."""
    return net.norms.policy != "frozen" and not net.norms.constant and bool(batch_norms(net.model))
