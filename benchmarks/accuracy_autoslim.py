"""AutoSlim on a universally slimmable CIFAR-10 network against uniform widths of the same MACs.

    python benchmarks/accuracy_us.py --data ROOT          # first: trains the networks
    python benchmarks/accuracy_autoslim.py --data ROOT    # searches on them, about 10 minutes for each on a CPU

Searches see held-out training images only. Accuracies are of the test images, after calibration, of the same weights: the
widths are the only difference. Tables go to OUT/results.md, numbers to OUT/results/accuracy_autoslim.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import anywidth as aw
import cifar
from accuracy_us import CHANNELS, config, mean_spread
from anywidth.models import SmallResNet
from anywidth.search import (
    Budget,
    Evolve,
    Front,
    Greedy,
    Round,
    closed_form,
    largest_uniform,
    run_search,
    write_front,
)
from anywidth.train import evaluate, fit_, sandwich
from results import publish


def supernet(seed: int, images: dict[str, cifar.Images], where: argparse.Namespace) -> aw.Elastic:
    """ResNet-20 trained with a random ratio for every channel group, as a search over groups needs it."""
    run = where.runs / f"supernet-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = SmallResNet(in_channels=3, channels=CHANNELS, blocks=3)
    if (run / "net.safetensors").exists():
        return aw.load(run / "net.safetensors", model)
    net = aw.Elastic(model, torch.randn(1, 3, where.size, where.size), widths=[0.25, 0.5, 0.75, 1.0])
    fit_(
        net,
        lambda epoch, first: cifar.Training(images["train"], where.batch, seed, epoch, first),
        sandwich(low=0.25, random=2, per_group=True, space=net.space),
        config("us", where.epochs, where.lr, where.decay),
        seed=seed,
        run=run,
    )
    net.save(run / "net.safetensors")
    return net


def search(net: aw.Elastic, images: cifar.Images, where: argparse.Namespace, seed: int, kind: str) -> Front:
    """A front, with one member for each share of the MACs."""
    full = net.macs(1.0)
    budget = Budget(
        kind="macs", limits={f"{share:g}": share * full for share in sorted(where.shares, reverse=True)}
    )
    held_out = list(cifar.Plain(images.part(torch.arange(where.images)), 250))

    def errors(widths: Any) -> list[float]:
        return [1 - s.accuracy for s in evaluate(net, held_out, widths, norm="batch")]

    def report(done: Round) -> None:
        if done.number % 10 == 0:
            print(f"{kind}, seed {seed}: round {done.number}, best error {min(done.errors):.3f}", flush=True)

    searcher = (
        Greedy(net, budget, steps=where.steps, criterion=where.criterion)
        if kind == "greedy"
        else Evolve(net, budget, seed=seed, population=24, generations=8)
    )
    log = where.runs / f"{kind}-{seed}.jsonl"
    front = run_search(searcher, errors, closed_form(net, "macs"), log=log, report=report)
    write_front(where.runs / f"{kind}-{seed}.json", front)
    return front


def accuracies(
    net: aw.Elastic, found: dict[str, Any], images: dict[str, cifar.Images], seed: int
) -> dict[str, float]:
    """Test accuracy of widths after calibration."""
    net.calibrate(cifar.Training(images["train"], 128, seed, 0), widths=list(found.values()), batches=16)
    scores = evaluate(net, cifar.Plain(images["test"]), list(found.values()))
    return {name: score.accuracy for name, score in zip(found, scores, strict=True)}


def one_seed(seed: int, images: dict[str, cifar.Images], where: argparse.Namespace) -> dict[str, Any]:
    net = supernet(seed, images, where)
    costs = closed_form(net, "macs")
    widths: dict[str, aw.Width] = {}
    seconds = {}
    for kind in where.searchers:
        start = time.perf_counter()
        for member in search(net, images["held_out"], where, seed, kind).members:
            widths[f"{kind} {member.label}"] = member.width
        seconds[kind] = time.perf_counter() - start
    for share in where.shares:
        widths[f"uniform {share:g}"] = largest_uniform(net, costs, share * net.macs(1.0))
    macs = {name: int(net.macs(width)) for name, width in widths.items()}
    channels = {name: net.space.channels(width) for name, width in widths.items()}
    return {
        "accuracy": accuracies(net, widths, images, seed),
        "macs": macs,
        "channels": channels,
        "seconds": seconds,
    }


def table(found: list[dict[str, Any]], where: argparse.Namespace) -> str:
    names = ["uniform", *where.searchers]
    lines = [
        f"ResNet-20 on CIFAR-10 ({where.size} x {where.size} pixels), trained for {where.epochs} epochs over {where.train_images or 45_000:,} images with a random ratio for every "
        f"channel group; greedy slimming ({where.criterion}) on {where.images} held-out images; test accuracy in % of the same weights after calibration, "
        f"mean ± standard deviation over {len(found)} seeds. torch {torch.__version__}, CPU.",
        "",
        "| MACs | "
        + " | ".join(names)
        + " | "
        + " | ".join(f"{n} minus uniform" for n in where.searchers)
        + " |",
        "|---:|" + "---:|" * (len(names) + len(where.searchers)),
    ]
    for share in where.shares:
        columns = {n: [f["accuracy"][f"{n} {share:g}"] for f in found] for n in names}
        gains = [
            [a - b for a, b in zip(columns[n], columns["uniform"], strict=True)] for n in where.searchers
        ]
        cells = [mean_spread(columns[n]) for n in names] + [mean_spread(g) for g in gains]
        lines.append(f"| {100 * share:g} % | {' | '.join(cells)} |")
    seconds = {n: statistics.mean(f["seconds"][n] for f in found) for n in where.searchers}
    lines += ["", "Search time, mean: " + ", ".join(f"{n} {s:.0f} s" for n, s in seconds.items()) + "."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy_us"))
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--train-images", type=int, default=None)
    parser.add_argument("--decay", type=float, default=1e-4)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--criterion", default="error_per_cost", choices=["error", "error_per_cost"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--searchers", nargs="+", default=["greedy"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    where = parser.parse_args()
    torch.set_num_threads(where.threads)
    images = cifar.splits(where.data, where.size, where.runs)
    if where.train_images is not None:
        images["train"] = images["train"].part(torch.arange(where.train_images))
    found = []
    for seed in where.seeds:
        found.append(one_seed(seed, images, where))
        settings = {k: str(v) for k, v in vars(where).items() if k not in ("data", "runs", "out")}
        publish(where.out, "accuracy_autoslim", table(found, where), {"settings": settings, "found": found})
    print(table(found, where))


if __name__ == "__main__":
    main()
