"""anywidth gate: gates that choose a width for each image."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from anywidth import data
from anywidth import recipe as recipes
from anywidth.cli.console import print_table, say, si
from anywidth.cli.run import RECIPE, Run, example, finished_recipe, open_run, saved_net
from anywidth.cost.latency import measure_all
from anywidth.errors import DataError, RecipeError, WidthError
from anywidth.files import replacing, write_json
from anywidth.gating import (
    Cut,
    DynamicNet,
    GateConfig,
    Routes,
    Step,
    answers,
    bias_for,
    chosen,
    costs_of,
    train_gates,
    write_gates,
)
from anywidth.recipe import GateSection, Recipe
from anywidth.seeds import generator
from anywidth.train import distributed
from anywidth.train.evaluate import evaluate

GATES, REPORT, PICTURE = "gates.safetensors", "gate.json", "gate.png"
_POINTS, _SHARED, _UNITS = 21, 31, {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def gate(
    run: Path = typer.Argument(metavar="RUN", help="Run directory."),
    overrides: list[str] = typer.Argument(
        None, metavar="KEY=VALUE", help="Change keys of the section gate, like gate.target=60%."
    ),
    target: str = typer.Option(
        None, help="Mean cost to meet: 60% of the widest choice, or 0.33G.  [default: gate.target]"
    ),
    latency: bool = typer.Option(False, "--latency", help="Measure batches of 1, 32 and 256 images too."),
    onnx: bool = typer.Option(False, "--onnx", help="Also write gated.onnx, which runs only what is chosen."),
) -> None:
    """Train gates on a finished RUN, and compare them with its static widths on the test images."""
    trained = finished_recipe(run)
    changes = list(overrides or ()) + ([f"gate.target={json.dumps(target)}"] if target is not None else [])
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
    directory = open_run(run, settings)
    if settings.data.augment.mixup or settings.data.augment.cutmix:
        raise RecipeError(
            "gate: mixed images have no one label; set data.augment.mixup=0 and data.augment.cutmix=0"
        )
    if directory.splits.held_out is None:
        raise DataError(
            "gate: the run held no images out to meet a target on; train with data.held_out=1000 or more"
        )
    routes = _routes(directory, section)
    config = _config(routes, section)
    learning, held_out = _images(directory, section)
    net = train_gates(
        routes,
        learning,
        config,
        held_out=held_out,
        seed=settings.seed,
        report=_say,
    )
    gates = list(net.gates)
    write_gates(run / GATES, routes, gates)
    results = _measured(directory, routes, gates, net, held_out, config)
    if latency:
        results["latency"] = _latencies(directory, routes, net)
    write_json(
        run / REPORT, {"model": settings.model.name, "settings": section.model_dump(mode="json"), **results}
    )
    with replacing(run / PICTURE) as temporary:
        draw(results, title=f"{settings.model.name}: a width for each image", path=temporary)
    if onnx:
        from anywidth.gating.onnx import export_onnx

        export_onnx(net.cpu(), example(directory).cpu(), run / "gated.onnx")
    _print(run, results)


_USED = ("gate", "data", "calibration", "seed", "device", "threads")


def _check_keys(overrides: Sequence[str]) -> None:
    """Refuse overrides of what is trained already."""
    for override in overrides:
        section = override.partition("=")[0].partition(".")[0]
        if section in Recipe.model_fields and section not in _USED:
            raise RecipeError(
                f"override {override!r}: the network is trained; anywidth gate uses the sections {', '.join(_USED)} only"
            )


def _same_images(trained: data.DataConfig, ours: data.DataConfig) -> None:
    """Refuse overrides with which images of the training would be held out, or tested on."""
    for key in ("held_out", "seed", "test_fraction"):
        before, now = getattr(trained, key), getattr(ours, key)
        if now != before:
            raise RecipeError(
                f"gate: data.{key} = {now} would hold out other images than the training did, with {before}; leave the key as it is"
            )


def _images(run: Run, section: GateSection) -> tuple[Callable[[int], data.Batches], data.Batches]:
    """Epoch -> batches that the gates learn from, and those on which their target is met."""
    held_out, settings = run.splits.held_out, run.recipe
    assert held_out is not None
    if section.images == "train":
        return (lambda epoch: run.train_batches(epoch, 0)), run.eval_batches(held_out)
    order = torch.randperm(len(held_out), generator=generator(settings.data.seed, _SHARED))
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


def _routes(run: Run, section: GateSection) -> Routes:
    """The routes of a run's network, all with statistics."""
    net = saved_net(run)
    cuts = [Cut(at=gate_place.at, feature=gate_place.feature) for gate_place in section.places]
    routes = Routes(net, cuts, section.widths)
    missing = [w for w in map(routes.width, routes.all()) if not net.has_statistics(w)]
    if missing:
        say(f"calibrating {len(missing)} widths")
        run.calibrate_(net, missing)
        routes = Routes(net, cuts, section.widths)
    net.eval()
    return routes


def _config(routes: Routes, section: GateSection) -> GateConfig:
    options = section.model_dump(exclude={"places", "widths", "target", "images"})
    max_macs = costs_of(routes).reachable[1]
    return GateConfig(**options, target=None if section.target is None else _number(section.target, max_macs))


def _number(text: str, max_macs: float) -> float:
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


def _say(step: Step) -> None:
    if step.step == step.steps or step.step % max(1, step.steps // 5) == 0:
        say(f"step {step.step}/{step.steps}, loss {step.loss:.4f}, {si(step.macs)} multiply-adds")


def _measured(
    run: Run,
    routes: Routes,
    gates: Sequence[nn.Module],
    net: DynamicNet,
    held_out: data.Batches,
    config: GateConfig,
) -> dict[str, Any]:
    """Static widths, the gates as they are, and a sweep of their bias, all on the test images."""
    costs = costs_of(routes, sum(g.macs for g in gates))  # pyright: ignore[reportArgumentType, reportCallIssue]
    known, _ = answers(routes, gates, held_out)
    nodes, correct = answers(routes, gates, run.eval_batches())
    ends = (0,) * len(gates), (routes.choices - 1,) * len(gates)
    to_widest = ~correct[(slice(None), *ends[0])]
    scores = evaluate(routes.net, run.eval_batches(), routes.widths)
    static = [
        {"width": str(label), "macs": routes.macs((k,) * len(gates)), "accuracy": score.accuracy}
        for k, (label, score) in enumerate(zip(routes.labels, scores, strict=True))
    ]

    def point(bias: Sequence[Tensor]) -> dict[str, Any]:
        choices = chosen(nodes, bias)
        macs = costs.of(choices)
        hit = correct[(torch.arange(len(choices)), *choices.T)]
        ideal_choice = torch.where(to_widest, routes.choices - 1, 0)
        mean = float(macs.mean())
        return {
            "macs": mean,
            "accuracy": float(hit.double().mean()),
            "static_line": float(
                np.interp(mean, [s["macs"] for s in static], [s["accuracy"] for s in static])
            ),
            "gate_accuracy": float((choices == ideal_choice[:, None]).double().mean()),
            "routes": [torch.bincount(column, minlength=routes.choices).tolist() for column in choices.T],
        }

    low, high = costs.reachable
    sweep = [
        point(
            _bias(
                costs.shares, bias_for(known, costs, low + (high - low) * i / (_POINTS - 1)), nodes[0].logits
            )
        )
        for i in range(_POINTS)
    ]
    return {
        "static": static,
        "gate": point([g.bias for g in gates]) | {"target": config.target},  # pyright: ignore[reportArgumentType]
        "sweep": sweep,
        "images": len(to_widest),
    }


def _bias(shares: Sequence[Tensor], strength: float, like: Tensor) -> list[Tensor]:
    return [(-strength * share).to(like) for share in shares]


@torch.inference_mode()
def _latencies(run: Run, routes: Routes, net: DynamicNet) -> list[dict[str, Any]]:
    """Seconds of a batch, and the mean of the static networks that its images are sent to, timed in turns."""
    images = next(iter(run.eval_batches()))[0].to(run.device)
    return [_latency(routes, net, _repeated(images, size)) for size in (1, 32, 256)]


def _repeated(images: Tensor, size: int) -> Tensor:
    return images.repeat(-(-size // len(images)), *[1] * (images.ndim - 1))[:size]


def _latency(routes: Routes, net: DynamicNet, batch: Tensor) -> dict[str, Any]:
    taken = net.routed(batch).routes
    networks = {
        str(r): routes.net.extract(routes.width(tuple(r))).eval() for r in taken.unique(dim=0).tolist()
    }
    calls = {"gated": lambda: net(batch)} | {k: (lambda m=m: m(batch)) for k, m in networks.items()}
    times = {k: t.median for k, t in measure_all(calls, repeats=10).items()}
    mean = sum(times[str(r)] for r in taken.tolist()) / len(batch)
    return {
        "batch": len(batch), "gated": times["gated"], "static_mean": mean, "ratio": times["gated"] / mean,
    }  # fmt: skip


def _print(run: Path, results: dict[str, Any]) -> None:
    gate = results["gate"]
    rows = [
        {
            "width": s["width"],
            "multiply-adds": si(s["macs"]),
            "accuracy": f"{100 * s['accuracy']:.2f} %",
            "static line": "",
        }
        for s in results["static"]
    ]
    rows.append(
        {
            "width": "gated",
            "multiply-adds": si(gate["macs"]),
            "accuracy": f"{100 * gate['accuracy']:.2f} %",
            "static line": f"{100 * gate['static_line']:.2f} %",
        }
    )
    print_table(f"{run}", rows)
    shares = [[f"{100 * c / results['images']:.0f} %" for c in counts] for counts in gate["routes"]]
    for index, share in enumerate(shares):
        typer.echo(f"gate {index + 1}: {', '.join(share)} of the images to each width")
    for row in results.get("latency", ()):
        typer.echo(
            f"batch {row['batch']}: {1e3 * row['gated']:.2f} ms, {row['ratio']:.2f} of the static networks' mean"
        )
    typer.echo(run / PICTURE)


def draw(found: dict[str, Any], *, title: str, path: Path) -> None:
    """Test accuracy against mean multiply-adds: static widths, the gate at its bias, and at others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for rows, style, label in (
        (found["static"], "o-C7", "static widths"),
        (found["sweep"], ".-C0", "gated, bias swept"),
        ([found["gate"]], "DC3", "gated, as trained"),
    ):
        axes.plot([r["macs"] / 1e6 for r in rows], [100 * r["accuracy"] for r in rows], style, label=label)
    axes.set(xlabel="mean multiply-adds for an image, M", ylabel="test accuracy, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png")
