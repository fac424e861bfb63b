"""What the verbs do with detectors: train, eval, report, export."""

from __future__ import annotations

import os
import platform
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer

from anywidth import detect
from anywidth import recipe as recipes
from anywidth import train as training
from anywidth.cli import names
from anywidth.cli.console import print_table, say, si, training_progress
from anywidth.cli.detector import (
    DetectorRun,
    check_free_detector,
    claim_detector,
    finished_detector,
    new_detector,
    open_detector,
    saved_detector,
)
from anywidth.cli.run import EVALUATION, NET, RESULTS, read_results
from anywidth.cost.latency import measure_all
from anywidth.detect.evaluate import objects
from anywidth.detect.metrics import Backend
from anywidth.detect.pictures import draw_detections
from anywidth.detect.results import Kind
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.export.formats import export_weights
from anywidth.files import replacing, write_json
from anywidth.models.detectors import example_images
from anywidth.norms.bank import batch_norms
from anywidth.train import distributed, policies

FIGURE, REPORT = "report.png", "report.json"
_SHORT = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
_PICTURES = 4


def train_detector(recipe: Path, overrides: Sequence[str], run: Path | None) -> None:
    """`anywidth train` for a recipe of a detector."""
    settings = recipes.load_detection(recipe, overrides)
    path = run or Path("runs") / recipe.stem
    check_free_detector(path, settings)
    with distributed.processes(names.device(settings.device)):
        if distributed.from_first((path / RESULTS).exists):
            say(f"{path}: already trained; these are its results")
        else:
            results = _train(open_detector(path, settings))
            if distributed.rank() == 0:
                write_json(path / RESULTS, results)
            distributed.barrier()
    if distributed.rank() == 0:
        print_rows(f"{path}", read_results(path / RESULTS)["rows"])


def _train(run: DetectorRun) -> dict[str, Any]:
    if run.device.type == "cuda":
        torch.cuda.set_device(run.device)
    net, settings, widths_section = new_detector(run), run.recipe.train, run.recipe.widths
    draw = policies.make(
        widths_section.policy, net, low=widths_section.min, high=widths_section.max, random=widths_section.random, grid=widths_section.grid, options=widths_section.options
    )  # fmt: skip
    if distributed.rank() == 0:
        claim_detector(run)
    distributed.barrier()
    with training_progress() as report:
        seconds = training.fit_(
            net,
            run.train_batches,
            draw,
            settings,
            seed=run.recipe.seed,
            run=run.path,
            report=report,
            scores=(lambda wide: _scores(run, wide)) if settings.eval_every else None,
            task=run.recipe.losses,
        )
    if _norms_learn(net):  # averages of a training lag behind its weights
        run.calibrate_(net, list(net.widths))
    rows = run.rows(net, list(net.widths), list(net.widths), detect.kinds_of(net.model))
    if distributed.rank() == 0:
        net.save(run.path / NET)
    return {
        "model": run.recipe.detector.name,
        "rows": rows,
        "seconds": seconds,
        "seed": run.recipe.seed,
        "device": str(run.device),
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _norms_learn(net: Elastic) -> bool:
    return net.norms.policy != "frozen" and not net.norms.constant and bool(batch_norms(net.model))


def _scores(run: DetectorRun, net: Elastic) -> dict[str, float]:
    """Label -> AP of boxes on the test images, for choosing an epoch."""
    snapshot = net.norms.snapshot()
    try:
        if _norms_learn(net):
            run.calibrate_(net, list(net.widths))
        rows = run.rows(net, list(net.widths), (), ("bbox",))
    finally:
        net.norms.restore_(snapshot)
    ap_by_width = {str(row["width"]): row["metrics"]["bbox"]["AP"] for row in rows}
    return distributed.from_first(lambda: ap_by_width)


def evaluate_detector(
    run: Path, widths: str | None, metrics: str | None, backend: Backend, *, latency: bool, json: Path | None
) -> None:
    """`anywidth eval` for the run of a detector."""
    if widths is None:
        raise WidthError("anywidth eval: say which widths: --widths 0.25,0.5,1.0 or --widths listed")
    directory = finished_detector(run)
    with distributed.processes(directory.device):
        net = saved_detector(directory)
        listed = list(net.widths)
        selected = listed if widths == "listed" else list(dict.fromkeys(names.widths(widths)))
        kinds = _kinds(net, metrics)
        if missing := [w for w in selected if not net.has_statistics(w)]:
            for w in missing:
                net.norms.overrides(net.width(w))  # with switchable norms only trained widths exist
            say(f"calibrating {', '.join(map(str, missing))}")
            directory.calibrate_(net, missing)
        rows = directory.rows(net, selected, listed, kinds, backend)
        if distributed.rank() != 0:
            return
    if latency:
        _measure_(rows, net, selected, directory.recipe.detector.size)
    write_json(json or run / EVALUATION, {"model": directory.recipe.detector.name, "rows": rows})
    print_rows(f"{run}", rows)


def _kinds(net: Elastic, metrics: str | None) -> tuple[Kind, ...]:
    known = detect.kinds_of(net.model)
    if metrics is None:
        return known
    asked = [m.strip() for m in metrics.split(",") if m.strip()]
    for m in asked:
        if m not in known:
            raise WidthError(
                f"--metrics {m}: {type(net.model).__name__} gives {', '.join(known)}; name some of these, like --metrics bbox"
            )
    return tuple(iou_type for iou_type in known if iou_type in asked)


@torch.inference_mode()
def _measure_(rows: list[dict[str, Any]], net: Elastic, widths: Sequence[Any], size: int) -> None:
    """Seconds of the extracted detectors for one image of the size that costs are counted for, all timed in turns."""
    x = [t.to(next(net.parameters()).device) for t in example_images(net.model, (size, size))[0]]
    small = {str(i): net.extract(width).eval() for i, width in enumerate(widths)}
    for module in small.values():
        transform: Any = module.get_submodule("transform")
        if transform.fixed_size is None:  # SSDlite has one size
            transform.min_size, transform.max_size = (size,), size
    times = measure_all({name: (lambda m=module: m(x)) for name, module in small.items()}, repeats=5)
    for i, row in enumerate(rows):
        row["latency"] = times[str(i)].median


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Average precisions in per cent, a table of each kind; then what each part costs."""
    for iou_type in dict.fromkeys(iou_type for row in rows for iou_type in row["metrics"]):
        lines = [
            {
                "width": str(row["width"]),
                **{name: _percent(value) for name, value in row["metrics"][iou_type].items()},
            }
            for row in rows
            if iou_type in row["metrics"]
        ]
        print_table(f"{title}: {_SHORT[iou_type]}, %", lines)
    print_table(f"{title}: multiply-adds", [_costs(row) for row in rows])


def _costs(row: dict[str, Any]) -> dict[str, str]:
    return {
        "width": str(row["width"]),
        **{part_name: si(macs) for part_name, macs in row["macs_of_parts"].items()},
        "of the full": f"{row['macs_share']:.3f}",
        "params": si(row["params"]),
        **({"latency": f"{1e3 * row['latency']:.0f} ms"} if "latency" in row else {}),
    }


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"


def report_detector(run: Path) -> None:
    """`anywidth report` for the run of a detector: a picture of precision against cost, and detections side by side."""
    directory = finished_detector(run)
    results = read_results(run / RESULTS)
    rows = {str(row["width"]): row for row in results["rows"]}
    if (run / EVALUATION).exists():
        for row in read_results(run / EVALUATION)["rows"]:
            before = rows.get(str(row["width"]), {"metrics": {}})
            rows[str(row["width"])] = {**row, "metrics": {**before["metrics"], **row["metrics"]}}
    ordered = sorted(rows.values(), key=lambda row: row["macs"])
    with replacing(run / FIGURE) as temporary:
        draw(ordered, title=f"{results['model']}: one set of weights", path=temporary)
    figures = [FIGURE, *_draw_found(directory)]
    write_json(run / REPORT, {**results, "rows": ordered, "figure": FIGURE, "figures": figures})
    print_rows(f"{run}", ordered)
    for figure in figures:
        typer.echo(run / figure)


def _draw_found(run: DetectorRun) -> list[str]:
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


def draw(rows: Sequence[dict[str, Any]], *, title: str, path: Path) -> None:
    """AP of every kind against multiply-adds, one labelled point per width."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    macs = [row["macs"] for row in rows]
    for curve_index, iou_type in enumerate(
        dict.fromkeys(iou_type for row in rows for iou_type in row["metrics"])
    ):
        with_kind = [row for row in rows if iou_type in row["metrics"]]
        values = [100 * row["metrics"][iou_type]["AP"] for row in with_kind]
        axes.plot([row["macs"] for row in with_kind], values, f"o-C{curve_index}", label=_SHORT[iou_type])
        for row, value in zip(with_kind, values, strict=True):
            axes.annotate(
                f"{row['width']}\n{value:.1f}", (row["macs"], value), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(macs)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1, y=0.25)
    axes.set(xlabel="multiply-adds per image (log scale)", ylabel="AP on the test images, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, format="png")


def export_detector(run: Path, width: str | None, out: Path | None, *, onnx: bool) -> None:
    """`anywidth export` for the run of a detector."""
    if width is None:
        raise WidthError("anywidth export: say which width: --width 0.5")
    directory = finished_detector(run)
    net, label = saved_detector(directory), names.width(width)
    if not net.has_statistics(label):
        say(f"calibrating {width}")
        directory.calibrate_(net, [label])
    small = net.extract(label).cpu().eval()
    target = out or run / f"export-{width}"
    target.parent.mkdir(parents=True, exist_ok=True)
    size = directory.recipe.detector.size
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as folder:
        _write(
            directory,
            small,
            Path(folder),
            (size, size),
            {"width": label, "params": int(net.params(label))},
            onnx=onnx,
        )
        target.mkdir(exist_ok=True)
        for file in sorted(Path(folder).iterdir()):
            os.replace(file, target / file.name)
            typer.echo(target / file.name)


def _write(
    run: DetectorRun,
    small: torch.nn.Module,
    folder: Path,
    size: tuple[int, int],
    facts: dict[str, Any],
    *,
    onnx: bool,
) -> None:
    export_weights(small, folder / "model.safetensors")
    with warnings.catch_warnings():  # torch.export, its successor, cannot take detectors
        warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
        torch.jit.script(small).save(str(folder / "model.ts"))
    if onnx:
        from anywidth.detect.onnx import export_onnx

        export_onnx(small, folder / "model.onnx", size=size)
    description = {
        "model": run.recipe.detector.name,
        **facts,
        "input": "a list of images (3, H, W), RGB in 0..1; model.onnx: one image (3, {}, {})".format(*size),
        "output": "for each image boxes (XYXY pixels), labels (1, 2, ...), scores, and masks or keypoints",
        "classes": list(run.splits.classes),
        "category_ids": list(run.splits.raw_ids),
        "shapes": {key: list(value.shape) for key, value in small.state_dict().items()},
        "torch": torch.__version__,
        "run": "import torchvision; torch.jit.load('model.ts')(images)[1]",
    }
    write_json(folder / "model.json", description)
