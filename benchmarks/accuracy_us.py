"""Universally slimmable ResNet-20 on CIFAR-10 against nets trained for one width each, with equal epochs.

    python benchmarks/accuracy_us.py --data ROOT                     # 16 pixels, 8 epochs, on a CPU: about 80 minutes
    python benchmarks/accuracy_us.py --data ROOT --size 32 --epochs 200 --device cuda
    python benchmarks/accuracy_us.py --data ROOT --quick             # a smoke run

ROOT holds train/<class>/*.jpg and test/<class>/*.jpg. Every training goes on where it stopped; a finished one is
not run again. Tables go to
OUT/results.md, numbers to OUT/results/accuracy_us.json. 5000 training images are held out of all trainings, for
`benchmarks/accuracy_autoslim.py`, which searches on the networks trained here.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anywidth as aw
import cifar
from anywidth.files import write_json
from anywidth.models import SmallResNet
from anywidth.train import FitConfig, evaluate, fit_, listed, sandwich
from results import publish

LISTED = [0.25, 0.5, 0.75, 1.0]
UNLISTED = [0.375, 0.625, 0.875]
METHODS = ("us", "us_labels", *(f"single_{w}" for w in LISTED))
CHANNELS = (16, 32, 64)


def config(method: str, epochs: int, lr: float, decay: float) -> FitConfig:
    return FitConfig(
        epochs=epochs,
        lr=lr,
        warmup_epochs=min(0.5, epochs / 4),
        weight_decay=decay,
        target="widest" if method == "us" else "labels",
        channels_last=True,
        log_every=100,
    )


def network(method: str, size: int, seed: int) -> aw.Elastic:
    """ResNet-20 (3 stages of 3 blocks); a single net is its compact copy of one width, listed as 1.0."""
    share = 1.0 if method.startswith("us") else float(method.removeprefix("single_"))
    torch.manual_seed(seed)
    model = SmallResNet(in_channels=3, channels=[round(c * share) for c in CHANNELS], blocks=3)
    return aw.Elastic(
        model, torch.randn(1, 3, size, size), widths=LISTED if method.startswith("us") else [1.0]
    )


def train(
    method: str, seed: int, images: dict[str, cifar.Images], where: argparse.Namespace
) -> dict[str, Any]:
    """Train (or go on), calibrate, test; returns and writes accuracies."""
    run = where.runs / f"{method}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    done = run / "results.json"
    if done.exists():
        return json.loads(done.read_text())
    net = network(method, where.size, seed).to(where.device)
    elastic = method.startswith("us")
    draw = sandwich(low=LISTED[0], random=2) if elastic else listed([1.0])
    seconds = fit_(
        net,
        lambda epoch, first: cifar.Training(images["train"], where.batch, seed, epoch, first),
        draw,
        config(method, where.epochs, where.lr, where.decay),
        seed=seed,
        run=run,
        report=Printer(f"{method}, seed {seed}"),
    )
    widths = LISTED + UNLISTED if elastic else [1.0]
    net.calibrate(cifar.Training(images["train"], where.batch, seed, 0), widths=widths, batches=16)
    scores = evaluate(net, cifar.Plain(images["test"]), widths)
    share = 1.0 if elastic else float(method.removeprefix("single_"))
    found = {
        "seconds": seconds,
        "accuracy": {str(w * share): s.accuracy for w, s in zip(widths, scores, strict=True)},
        "macs": {str(w * share): int(net.macs(w)) for w in widths},
    }
    net.save(run / "net.safetensors")
    write_json(done, found)
    return found


class Printer:
    """A line now and then."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, time.monotonic()

    def __call__(self, progress: Any) -> None:
        if time.monotonic() - self.last > 30:
            self.last = time.monotonic()
            print(f"{self.name}: step {progress.step}/{progress.steps}, losses {progress.losses}", flush=True)


def mean_spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds, in per cent."""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


def off_the_curve(accuracy: dict[str, float], width: float) -> float:
    """Accuracy at an unlisted width minus the cubic through the four listed widths."""
    cubic = np.polynomial.Polynomial.fit(LISTED, [accuracy[str(w)] for w in LISTED], 3)
    return accuracy[str(width)] - float(cubic(width))


def tables(found: dict[str, list[dict[str, Any]]], where: argparse.Namespace) -> str:
    """Markdown."""
    seeds = len(found["us"])
    lines = [
        f"ResNet-20 ({'-'.join(map(str, CHANNELS))} channels) on CIFAR-10 (JPEG copy, scaled to {where.size} x {where.size} "
        f"pixels), {where.epochs} epochs over {where.train_images or 45_000:,} images, batch {where.batch}, lr {where.lr:g} cosine, weight decay {where.decay:g}, "
        f"{seeds} seeds; test accuracy in %, mean ± standard deviation over seeds. torch {torch.__version__}, "
        f"{where.device}, {platform.machine()}, {torch.get_num_threads()} thread(s).",
        "",
        "| width | MACs | trained for this width | US, distilled from the widest | US, labels only | US minus single |",
        "|---:|---:|---:|---:|---:|---:|",
    ]

    def column(method: str, width: float) -> list[float]:
        return [f["accuracy"][str(width)] for f in found[method]]

    for w in LISTED:
        single, us, plain = column(f"single_{w}", w), column("us", w), column("us_labels", w)
        gain = [a - b for a, b in zip(us, single, strict=True)]
        macs = found["us"][0]["macs"][str(w)]
        lines.append(
            f"| {w} | {macs / 1e6:.2f} M | {mean_spread(single)} | {mean_spread(us)} | {mean_spread(plain)} | {mean_spread(gain)} |"
        )
    lines += [
        "",
        "Widths that were never listed, calibrated after training (16 batches): accuracy, and its distance from the cubic "
        "through the four listed widths of the same net, in points.",
        "",
        "| width | US, distilled | off the curve | US, labels only | off the curve |",
        "|---:|---:|---:|---:|---:|",
    ]
    for w in UNLISTED:
        cells = []
        for method in ("us", "us_labels"):
            off = [off_the_curve(f["accuracy"], w) for f in found[method]]
            cells += [mean_spread(column(method, w)), mean_spread(off)]
        lines.append(f"| {w} | {' | '.join(cells)} |")
    total = {method: statistics.mean(f["seconds"] for f in found[method]) for method in found}
    singles = sum(total[f"single_{w}"] for w in LISTED)
    lines += [
        "",
        f"Training time: US {total['us']:.0f} s, the four single nets together {singles:.0f} s (means over seeds).",
    ]
    return "\n".join(lines) + "\n"


def picture(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Test accuracy against MACs: mean over seeds, bars of one standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    macs = found["us"][0]["macs"]
    series = {
        "four nets, each trained for its width": ("0.4", LISTED, lambda w: found[f"single_{w}"]),
        "one net for all widths (US), distilled": ("C0", sorted(LISTED + UNLISTED), lambda w: found["us"]),
        "one net for all widths (US), labels only": (
            "C1",
            sorted(LISTED + UNLISTED),
            lambda w: found["us_labels"],
        ),
    }
    for label, (color, widths, rows) in series.items():
        values = [[100 * f["accuracy"][str(w)] for f in rows(w)] for w in widths]
        x, mean = [macs[str(w)] / 1e6 for w in widths], [statistics.mean(v) for v in values]
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
        axes.errorbar(x, mean, spread, color=color, capsize=3, marker="o", markersize=4, label=label)
    for w in LISTED:
        axes.axvline(macs[str(w)] / 1e6, color="0.9", zorder=0)
    axes.set(
        xlabel="multiply-adds per image (millions)", ylabel="test accuracy in % (mean ± standard deviation)"
    )
    axes.set_title("ResNet-20 on CIFAR-10; grey lines: listed widths")
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy_us"))
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--train-images", type=int, default=None, help="use so many of the training images")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=1e-4, help="weight decay, the papers' 1e-4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a thousand images, one epoch, one seed")
    where = parser.parse_args()
    torch.set_num_threads(where.threads)
    images = cifar.splits(where.data, where.size, where.runs)
    if where.quick:
        images = {k: v.part(torch.arange(min(len(v), 1000))) for k, v in images.items()}
        where.epochs, where.seeds = 1, where.seeds[:1]
    if where.train_images is not None:
        images["train"] = images["train"].part(torch.arange(where.train_images))
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in where.methods}
    for seed in where.seeds:
        for method in where.methods:
            found[method].append(train(method, seed, images, where))
        if where.methods != list(METHODS):
            print(json.dumps({method: rows[-1]["accuracy"] for method, rows in found.items()}))
            continue
        settings = {k: str(v) for k, v in vars(where).items() if k not in ("data", "runs", "out")}
        (where.out / "images").mkdir(exist_ok=True)
        picture(found, where.out / "images" / "accuracy_us.png")
        publish(where.out, "accuracy_us", tables(found, where), {"settings": settings, "found": found})
    if where.methods == list(METHODS):
        print(tables(found, where))


if __name__ == "__main__":
    main()
