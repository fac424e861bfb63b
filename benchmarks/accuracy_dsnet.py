"""DS-MBNet on CIFAR-10: how narrow widths learn, and a gate against static networks of the same multiply-adds.

    python benchmarks/accuracy_dsnet.py --data ROOT         # short schedule, half an hour on a CPU core
    python benchmarks/accuracy_dsnet.py --data ROOT --size 32 --epochs 160 --train-images 35000 --batch 128 --device cuda

Stage I trains the widest, two random widths and the narrowest in each step, four times: the narrow ones learn from a moving average of the widest
(bootstrapping; the narrowest from an ensemble), from the widest of the same step (distillation), or from the labels. All results are moving averages of the weights.
Stage II trains one gate, on the network that learned from labels alone (the best of so short a training), with training images that Stage I did not see (on those it saw, all widths are too right), and meets three compute targets on held-out training images. The table compares it with the
straight line between the static networks beside it, and with a gate that draws the same routes at random.
Tables go to OUT/results.md, numbers and a picture to OUT/results/accuracy_dsnet.{json,png}.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anywidth as aw
import cifar
from accuracy_us import mean_spread
from anywidth.gating import Cut, GateConfig, Routes, answers, bias_for, chosen, costs_of, train_gates
from anywidth.interop import dsnet
from anywidth.models import DSMBNet
from anywidth.train import FitConfig, evaluate, fit_
from results import publish

CANDIDATES = ((16, 24), (32, 40), (48, 64), (64, 80), (96, 112), (6, 12, 24, 48, 96, 192))
STATIC = tuple(range(len(CANDIDATES[-1])))
GATE = Cut(at="stages.4.0.depthwise.attention")
METHODS = {
    "labels only": "labels",
    "bootstrapping": "ema",
    "ensemble": "ema_ensemble",
    "distillation": "widest",
}
SHARES = (0.25, 0.5, 0.75)
GATED = "labels only"


def draw(generator: torch.Generator, progress: float = 0.0) -> list[Hashable]:
    """The widest, two random ones, the narrowest."""
    random = torch.randint(1, len(STATIC), (2,), generator=generator).tolist()
    return ["largest", *random, "smallest"]


def new_net(where: argparse.Namespace) -> aw.Elastic:
    model = DSMBNet(
        10, channels=[t[-1] for t in CANDIDATES], blocks=(1, 1, 1, 2, 3), strides=(1, 2, 1, 2, 1), stem_stride=1, dropout=0.0
    )  # fmt: skip
    return dsnet.elastic(model, where.size, candidates=CANDIDATES).to(where.device)


def supernet(
    method: str, seed: int, images: dict[str, cifar.Images], where: argparse.Namespace
) -> aw.Elastic:
    run = where.runs / f"{method.replace(' ', '-')}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net = new_net(where)
    config = FitConfig(
        epochs=where.epochs, lr=where.lr, warmup_epochs=min(1.0, where.epochs / 8), weight_decay=1e-4, target=METHODS[method],
        label_smoothing=0.1, ema=where.ema, trunk="stages.3",
    )  # fmt: skip
    start = time.perf_counter()
    fit_(
        net,
        lambda epoch, first: cifar.Training(images["train"], where.batch, seed, epoch, first),
        draw,
        config,
        seed=seed,
        run=run,
    )
    net.calibrate(cifar.Training(images["train"], 128, seed, 0), widths=[*STATIC, "largest"], batches=24)
    net.eval()
    print(f"{method}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return net


def static(net: aw.Elastic, images: dict[str, cifar.Images]) -> dict[str, float]:
    labels = [*STATIC, "largest"]
    scores = evaluate(net, cifar.Plain(images["test"]), labels)
    return {str(label): score.accuracy for label, score in zip(labels, scores, strict=True)}


def gated(
    net: aw.Elastic, seed: int, images: dict[str, cifar.Images], accuracies: dict[str, float], where: Any
) -> dict[str, Any]:
    """Accuracy and mean cost on test images for each target, and for a sweep of targets."""
    routes = Routes(net, [GATE], STATIC)
    held_out = list(cifar.Plain(images["held_out"], 250))
    config = GateConfig(
        epochs=where.gate_epochs, lr=where.gate_lr, sparsify=where.sparsify, entropy=where.entropy
    )
    found = train_gates(
        routes,
        lambda epoch: cifar.Training(images["gate"], 128, seed, epoch),
        config,
        held_out=held_out,
        seed=seed,
    )
    gates = list(found.gates)
    costs = costs_of(routes, sum(g.macs for g in gates))  # pyright: ignore[reportArgumentType]
    alone = [float(routes.macs((k,))) for k in STATIC]
    known, _ = answers(routes, gates, held_out)
    nodes, right = answers(routes, gates, cifar.Plain(images["test"], 250))
    points = []
    for share in sorted({*SHARES, *np.linspace(0, 1, 21).round(3).tolist()}):
        target = costs.reachable[0] + share * (costs.reachable[1] - costs.reachable[0])
        strength = bias_for(known, costs, target)
        bias = [(-strength * s).to(nodes[0].logits) for s in costs.shares]
        taken = chosen(nodes, bias)
        spent = float(costs.of(taken).mean())
        histogram = torch.bincount(taken.flatten(), minlength=len(STATIC)) / len(taken)
        points.append(
            {
                "share": share,
                "target": target,
                "macs": spent,
                "accuracy": float(right.gather(1, taken).double().mean()),
                "line": float(np.interp(spent, alone, [accuracies[str(k)] for k in STATIC])),
                "random": float(sum(h * accuracies[str(k)] for k, h in enumerate(histogram.tolist()))),
                "routes": histogram.tolist(),
            }
        )
    return {"points": points, "static_macs": alone}


def one_seed(seed: int, images: dict[str, cifar.Images], where: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in METHODS:
        net = supernet(method, seed, images, where)
        found[method] = static(net, images)
        if method == GATED:
            start = time.perf_counter()
            found["gate"] = gated(net, seed, images, found[method], where)
            print(f"gate, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def table(found: list[dict[str, Any]], where: argparse.Namespace) -> str:
    setting = (
        f"A small DS-MBNet (six widths that share their trunk) on CIFAR-10 (JPEG copy, {where.size} x {where.size} pixels), {where.epochs} epochs over "
        f"{where.train_images:,} images, batch {where.batch}, moving average {where.ema}; test accuracy in %, mean ± standard deviation over "
        f"{len(found)} seeds. torch {torch.__version__}, {where.device}."
    )
    lines = [setting, "", "| width | " + " | ".join(METHODS) + " | bootstrapping minus distillation |", "|---|" + "---:|" * (len(METHODS) + 1)]  # fmt: skip
    for label in [*map(str, STATIC), "largest"]:
        columns = {m: [f[m][label] for f in found] for m in METHODS}
        gains = [a - b for a, b in zip(columns["bootstrapping"], columns["distillation"], strict=True)]
        lines.append(
            f"| {label} | {' | '.join(mean_spread(c) for c in columns.values())} | {mean_spread(gains)} |"
        )
    lines += [
        "",
        "The gate on the network that learned from labels alone, the best of so short a training; its targets are met on held-out images and checked on test images.",
        "",
        "| target, M multiply-adds | spent, M | off by | gate | static line | minus line | random gate | minus random |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for share in SHARES:
        points = [next(p for p in f["gate"]["points"] if p["share"] == share) for f in found]
        column = {k: [p[k] for p in points] for k in ("target", "macs", "accuracy", "line", "random")}
        off = max(abs(a / b - 1) for a, b in zip(column["macs"], column["target"], strict=True))
        above = [a - b for a, b in zip(column["accuracy"], column["line"], strict=True)]
        lucky = [a - b for a, b in zip(column["accuracy"], column["random"], strict=True)]
        lines.append(
            f"| {statistics.mean(column['target']) / 1e6:.3f} | {statistics.mean(column['macs']) / 1e6:.3f} | {100 * off:.1f} % at most | "
            f"{mean_spread(column['accuracy'])} | {mean_spread(column['line'])} | {mean_spread(above)} | {mean_spread(column['random'])} | "
            f"{mean_spread(lucky)} |"
        )
    return "\n".join(lines) + "\n"


def picture(found: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=130, layout="constrained")
    for seed, (axes, f) in enumerate(zip(figure.subplots(1, len(found), sharey=True, squeeze=False)[0], found, strict=True)):  # fmt: skip
        macs = [m / 1e6 for m in f["gate"]["static_macs"]]
        axes.plot(macs, [100 * f[GATED][str(k)] for k in STATIC], "o-C7", label="static networks")
        points = f["gate"]["points"]
        axes.plot(
            [p["macs"] / 1e6 for p in points],
            [100 * p["accuracy"] for p in points],
            ".-C0",
            label="gate, bias swept",
        )
        axes.set(xlabel="mean multiply-adds, M", title=f"seed {seed}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy_dsnet"))
    parser.add_argument("--size", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--train-images", type=int, default=25_000)
    parser.add_argument("--gate-images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--gate-epochs", type=int, default=10)
    parser.add_argument("--gate-lr", type=float, default=0.05)
    parser.add_argument("--sparsify", type=float, default=0.0)
    parser.add_argument("--entropy", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    where = parser.parse_args()
    torch.set_num_threads(where.threads)
    images = cifar.splits(where.data, where.size, where.runs)
    images["gate"] = images["train"].part(
        torch.arange(len(images["train"]) - where.gate_images, len(images["train"]))
    )
    most = len(images["train"]) - where.gate_images
    images["train"] = images["train"].part(torch.arange(min(where.train_images, most)))
    found = []
    for seed in where.seeds:
        found.append(one_seed(seed, images, where))
        settings = {k: str(v) for k, v in vars(where).items() if k not in ("data", "runs", "out")}
        publish(where.out, "accuracy_dsnet", table(found, where), {"settings": settings, "found": found})
        picture(found, where.out / "results" / "accuracy_dsnet.png")
    print(table(found, where))


if __name__ == "__main__":
    main()
