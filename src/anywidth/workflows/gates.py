"""Train gates on a finished run: each image then runs at the width that they choose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anywidth import data
from anywidth import recipe as recipes
from anywidth.errors import DataError, RecipeError, WidthError
from anywidth.files import replacing, write_json
from anywidth.gating import Cut, GateConfig, Routes, Step, costs_of, train_gates, write_gates
from anywidth.recipe import GateSection, Recipe
from anywidth.seeds import generator
from anywidth.train import distributed
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.classifier_run import ClassifierRun, example_image, open_classifier
from anywidth.workflows.gate_measuring import gate_latencies, measured_gates
from anywidth.workflows.pictures import draw_gates
from anywidth.workflows.reporter import SILENT, Reporter, spoken_once
from anywidth.workflows.run_directory import finished_recipe
from anywidth.workflows.run_files import RECIPE
from anywidth.workflows.tables import si

GATES, GATE_RESULTS, PICTURE, GATED_ONNX = "gates.safetensors", "gate.json", "gate.png", "gated.onnx"
_ORDER_SEED, _UNITS = 31, {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What gates do on the test images.

    Attributes:
        run: run directory, with the gates.
        results: the contents of its `gate.json`: `static` widths, the `gate` as trained, a `sweep` of its bias, `latency`.
        picture: accuracy against cost.
    """

    run: Path
    results: dict[str, Any]
    picture: Path


def gate(
    run: str | Path,
    *,
    overrides: Sequence[str] = (),
    target: str | None = None,
    latency: bool = False,
    onnx: bool = False,
    reporter: Reporter = SILENT,
) -> GateResult:
    """Train gates on a finished run, and compare them with its static widths on the test images.

    Args:
        run: run directory of a classifier whose recipe has a section `gate`, or gets one by `overrides`.
        overrides: changes of keys, like "gate.epochs=2".
        target: mean cost to meet, like "60%" of the widest choice, or "0.33G"; by default `gate.target`.
        latency: measure batches of 1, 32 and 256 images too.
        onnx: also write `gated.onnx`, which runs only what is chosen.
        reporter: is told how the training goes.

    Returns:
        Accuracy and cost of the gates and of the static widths.

    Raises:
        RecipeError: no finished run, no section `gate`, or a change of what is trained already.
        DataError: a run that held no images out.
        WidthError: a target that cannot be met.
    """
    reporter, run = spoken_once(reporter), Path(run)
    changes = [*overrides, *([f"gate.target={json.dumps(target)}"] if target is not None else [])]
    open_run, section = _opened(run, changes)
    routes = _routes(open_run, section, reporter)
    config = _config(routes, section)
    learning, held_out = _images(open_run, section)
    net = train_gates(
        routes,
        learning,
        config,
        held_out=held_out,
        seed=open_run.recipe.seed,
        report=lambda step: _say(step, reporter),
    )
    gates = list(net.gates)
    write_gates(run / GATES, routes, gates)
    measured = measured_gates(open_run, routes, gates, net, held_out, config)
    if latency:
        measured["latency"] = gate_latencies(open_run, routes, net)
    model = open_run.recipe.model.name
    # The file holds what was asked for beside what came of it, so that it can be read on its own.
    results = {"model": model, "settings": section.model_dump(mode="json"), **measured}
    write_json(run / GATE_RESULTS, results)
    with replacing(run / PICTURE) as temporary:
        draw_gates(results, title=f"{model}: a width for each image", path=temporary)
    if onnx:
        from anywidth.gating.onnx import export_onnx

        export_onnx(net.cpu(), example_image(open_run).cpu(), run / GATED_ONNX)
    return GateResult(run=run, results=results, picture=run / PICTURE)


def _opened(run: Path, changes: Sequence[str]) -> tuple[ClassifierRun, GateSection]:
    """The run with what its gates are trained by."""
    # Overrides may change how gates are trained, never which images the network has seen.
    trained = finished_recipe(run)
    settings = recipes.load(run / RECIPE, changes)
    _same_images(trained.data, settings.data)
    _check_keys(changes)
    section = settings.gate
    if section is None:
        raise RecipeError(
            f"{run}: the recipe has no section gate; add one, or give gate.places='[{{at: MODULE}}]' gate.widths='[0.25, 0.5]'"
        )
    if distributed.world() > 1:
        raise RecipeError("anywidth gate trains in one process; start it without torchrun")
    open_run = open_classifier(run, settings)
    if settings.data.augment.mixup or settings.data.augment.cutmix:
        raise RecipeError(
            "gate: mixed images have no one label; set data.augment.mixup=0 and data.augment.cutmix=0"
        )
    if open_run.splits.held_out is None:
        raise DataError(
            "gate: the run held no images out to meet a target on; train with data.held_out=1000 or more"
        )
    return open_run, section


_USED = ("gate", "data", "calibration", "seed", "device", "threads")


def _check_keys(overrides: Sequence[str]) -> None:
    """Refuse overrides of what is trained already."""
    for override in overrides:
        section_name = override.partition("=")[0].partition(".")[0]
        if section_name in Recipe.model_fields and section_name not in _USED:
            raise RecipeError(
                f"override {override!r}: the network is trained; anywidth gate uses the sections {', '.join(_USED)} only"
            )


def _same_images(trained: data.DataConfig, present: data.DataConfig) -> None:
    """Refuse overrides with which images of the training would be held out, or tested on."""
    for key in ("held_out", "seed", "test_fraction"):
        before, now = getattr(trained, key), getattr(present, key)
        if now != before:
            raise RecipeError(
                f"gate: data.{key} = {now} would hold out other images than the training did, with {before}; leave the key as it is"
            )


def _images(run: ClassifierRun, section: GateSection) -> tuple[Callable[[int], data.Batches], data.Batches]:
    """Epoch -> batches that the gates learn from, and those on which their target is met."""
    held_out, settings = run.splits.held_out, run.recipe
    assert held_out is not None
    if section.images == "train":
        return (lambda epoch: run.train_batches(epoch, 0)), run.eval_batches(held_out)
    order = torch.randperm(len(held_out), generator=generator(settings.data.seed, _ORDER_SEED))
    gate_positions, target_positions = (
        order[: 3 * len(held_out) // 4],
        order[3 * len(held_out) // 4 :].sort().values,
    )
    noisy = run.splits.train
    learned = data.ImageSet(
        held_out.source, held_out.indices[gate_positions], noisy.transform, held_out.unreadable, replace=True
    )
    met = data.ImageSet(
        held_out.source,
        held_out.indices[target_positions],
        held_out.transform,
        held_out.unreadable,
        replace=False,
    )
    splits = replace(run.splits, train=learned)
    return (
        lambda epoch: data.train_batches(splits, settings.data, seed=settings.seed, epoch=epoch)
    ), run.eval_batches(met)


def _routes(run: ClassifierRun, section: GateSection, reporter: Reporter) -> Routes:
    """The routes of a run's network, all with statistics."""
    net = saved_classifier(run)
    cuts = [Cut(at=gate_place.at, feature=gate_place.feature) for gate_place in section.places]
    routes = Routes(net, cuts, section.widths)
    missing = [w for w in map(routes.width, routes.all()) if not net.has_statistics(w)]
    if missing:
        reporter.say(f"calibrating {len(missing)} widths")
        run.calibrate_(net, missing)
        routes = Routes(net, cuts, section.widths)
    net.eval()
    return routes


def _config(routes: Routes, section: GateSection) -> GateConfig:
    options = section.model_dump(exclude={"places", "widths", "target", "images"})
    max_macs = costs_of(routes).reachable[1]
    return GateConfig(
        **options, target=None if section.target is None else _target_macs(section.target, max_macs)
    )


def _target_macs(text: str, max_macs: float) -> float:
    """Multiply-adds from "60%" or "0.33G"."""
    text = text.strip()
    unit = text[-1:] if text[-1:] in _UNITS else ""
    try:
        macs = (
            float(text[:-1]) / 100 * max_macs
            if text.endswith("%")
            else float(text.removesuffix(unit)) * _UNITS[unit]
        )
    except ValueError:
        macs = math.nan
    if not 0 < macs < math.inf:
        raise WidthError(f"gate.target = {text!r}: expected a share like 60%, or multiply-adds like 0.33G")
    return macs


def _say(step: Step, reporter: Reporter) -> None:
    if step.step == step.steps or step.step % max(1, step.steps // 5) == 0:
        reporter.say(f"step {step.step}/{step.steps}, loss {step.loss:.4f}, {si(step.macs)} multiply-adds")
