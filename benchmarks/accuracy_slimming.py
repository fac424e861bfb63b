"""Network Slimming on CIFAR-10: sparse training, 70 % of the channels pruned, fine-tuning, beside other ways to prune.

    python benchmarks/accuracy_slimming.py --data ROOT                      # a short schedule, hours on a CPU
    python benchmarks/accuracy_slimming.py --data ROOT --size 32 --width 1 --depth 19 --epochs 160 --l1 1e-4 --train-images 45000

All networks are cut to the MACs that Network Slimming leaves, in the same trained network, and fine-tuned alike, for as many
epochs as it was trained; "from scratch" has the pruned architecture and fresh weights. Tables go to OUT/results.md, numbers
to OUT/results/accuracy_slimming.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import anywidth as aw
import cifar
from accuracy_us import mean_spread
from anywidth import prune
from anywidth.models import CifarVGG
from anywidth.train import FitConfig, evaluate_module, fit_, listed
from anywidth.train.sparsity import SparsityConfig, histogram, scales_of
from results import publish

WAYS = ("bn_scale", "l1", "random", "uniform")
VGG = {11: (64, 128, 256, 256, 512, 512, 512, 512), 16: (64, 64, 128, 128, *[256] * 3, *[512] * 6), 19: (64, 64, 128, 128, *[256] * 4, *[512] * 8)}  # fmt: skip


def network(where: argparse.Namespace) -> nn.Module:
    return CifarVGG(where.depth, channels=[max(8, int(c * where.width)) for c in VGG[where.depth]])


def trained(
    model: nn.Module,
    images: dict[str, cifar.Images],
    where: argparse.Namespace,
    run: Path,
    l1: float,
    seed: int,
) -> aw.Elastic:
    """The network after `where.epochs`, the last weights; kept in `run`."""
    run.mkdir(parents=True, exist_ok=True)
    net = aw.Elastic(model, torch.randn(1, 3, where.size, where.size))
    config = FitConfig(
        epochs=where.epochs,
        lr=where.lr,
        nesterov=False,
        weight_decay=where.decay,
        no_decay="nothing",
        schedule="multistep",
        milestones=(0.5 * where.epochs, 0.75 * where.epochs),
        target="labels",
        sparsity=SparsityConfig(l1=l1),
        log_every=1000,
    )
    fit_(
        net,
        lambda epoch, first: cifar.Training(images["train"], where.batch, seed, epoch, first),
        listed([1.0]),
        config,
        seed=seed,
        run=run,
    )
    return net.eval()


def accuracy(module: nn.Module, images: dict[str, cifar.Images]) -> float:
    return evaluate_module(module, cifar.Plain(images["test"])).accuracy


def one_seed(seed: int, images: dict[str, cifar.Images], where: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    torch.manual_seed(seed)
    base = trained(network(where), images, where, where.runs / f"base-{seed}", 0.0, seed)
    torch.manual_seed(seed)
    sparse = trained(network(where), images, where, where.runs / f"sparse-{seed}", where.l1, seed)
    found: dict[str, Any] = {
        "base": accuracy(base.model, images),
        "sparse": accuracy(sparse.model, images),
        "macs": sparse.macs(1.0),
        "params": sparse.params(1.0),
        "scales": histogram(scales_of(sparse).values()),
        "ways": {},
    }
    print(f"seed {seed}: base {found['base']:.4f}, sparse {found['sparse']:.4f}", flush=True)
    slimmed = prune.planned(sparse, where.ratio, rule="network-slimming")
    limit = sparse.macs(slimmed.width)
    for way in WAYS:
        made = slimmed
        if way != "bn_scale":
            made = prune.planned(sparse, criterion=way, budget=f"macs={limit}", seed=seed)
        row = {
            "protected": list(made.protected),
            "channels": sparse.space.channels(made.width),
            "macs": sparse.macs(made.width),
            "params": sparse.params(made.width),
            "pruned": accuracy(prune.compact(sparse, made.width, fold=False), images),
            "folded": accuracy(prune.compact(sparse, made.width), images),
        }
        small = prune.compact(sparse, made.width)
        row["fine-tuned"] = accuracy(
            trained(small, images, where, where.runs / f"{way}-{seed}", 0.0, seed).model, images
        )
        found["ways"][way] = row
        print(
            f"seed {seed}: {way} {row['pruned']:.4f} {row['folded']:.4f} {row['fine-tuned']:.4f}", flush=True
        )
    torch.manual_seed(seed)
    fresh = network(where).eval()
    scratch = aw.Elastic(fresh, torch.randn(1, 3, where.size, where.size)).extract(slimmed.width)
    found["scratch"] = accuracy(
        trained(scratch, images, where, where.runs / f"scratch-{seed}", 0.0, seed).model, images
    )
    found["seconds"] = time.perf_counter() - start
    return found


def table(found: list[dict[str, Any]], where: argparse.Namespace) -> str:
    near = statistics.mean(f["scales"]["near_zero"] for f in found)
    lines = [
        f"CifarVGG-{where.depth} of {where.width:g} times the published channels on CIFAR-10 ({where.size} x {where.size} pixels, "
        f"{where.train_images:,} training images), {where.epochs} epochs, lambda {where.l1:g}, {100 * where.ratio:g} % of the channels pruned, fine-tuned for "
        f"{where.epochs} epochs; test accuracy in %, mean ± standard deviation over {len(found)} seeds. {100 * near:.0f} % of the scales were below 0.01. torch {torch.__version__}, CPU.",
        "",
        "| network | MACs | params | just pruned | shifts folded in | fine-tuned | minus sparse |",
        "|---|---:|---:|---:|---:|---:|---:|",
        f"| trained without sparsity | 100 % | 100 % | | | {mean_spread([f['base'] for f in found])} | |",
        f"| trained with sparsity | 100 % | 100 % | | | {mean_spread([f['sparse'] for f in found])} | |",
    ]
    names = {"bn_scale": "Network Slimming", "l1": "L1 norm", "random": "random", "uniform": "uniform width"}
    for way in WAYS:
        rows = [f["ways"][way] for f in found]
        lost = [row["fine-tuned"] - f["sparse"] for row, f in zip(rows, found, strict=True)]
        shares = [
            f"{100 * statistics.mean(row[kind] / f[kind] for row, f in zip(rows, found, strict=True)):.1f} %"
            for kind in ("macs", "params")
        ]
        cells = [mean_spread([row[k] for row in rows]) for k in ("pruned", "folded", "fine-tuned")]
        lines.append(f"| {names[way]} | {' | '.join([*shares, *cells, mean_spread(lost)])} |")
    scratch = [f["scratch"] for f in found]
    lost = [s - f["sparse"] for s, f in zip(scratch, found, strict=True)]
    lines.append(
        f"| Network Slimming's, from scratch | | | | | {mean_spread(scratch)} | {mean_spread(lost)} |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy_slimming"))
    parser.add_argument("--depth", type=int, default=11, choices=list(VGG))
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--train-images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--l1", type=float, default=1e-3)
    parser.add_argument("--ratio", type=float, default=0.7)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    where = parser.parse_args()
    torch.set_num_threads(where.threads)
    images = cifar.splits(where.data, where.size, where.runs)
    images["train"] = images["train"].part(torch.arange(where.train_images))
    found = []
    for seed in where.seeds:
        found.append(one_seed(seed, images, where))
        settings = {k: str(v) for k, v in vars(where).items() if k not in ("data", "runs", "out")}
        publish(where.out, "accuracy_slimming", table(found, where), {"settings": settings, "found": found})
    print(table(found, where))


if __name__ == "__main__":
    main()
