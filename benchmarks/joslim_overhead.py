"""What searching while training costs: measuring the history and proposing, beside the steps between two proposals.

    python benchmarks/joslim_overhead.py                # a few minutes on a CPU core

The CIFAR recipe of arXiv 2007.11752 (ResNet of 32 x 32 images, batch 128, tau 235, two widths) with a history of 100 widths on 256 held-out
images. Steps are timed on a sample of the 235. Also: the seconds in which 100,000 widths are filtered by their multiply-adds.
The table goes to OUT/results.md, numbers to OUT/results/joslim_overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anywidth as aw
from anywidth.interop import joslim
from anywidth.search import Bayes
from anywidth.search.candidates import Box
from anywidth.train import accumulate_, evaluate
from results import publish

LOW, TAU, BATCH, HISTORY, IMAGES = 0.42, 235, 128, 100, 256


def seconds(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def filled(net: aw.Elastic) -> Bayes:
    """A proposer with a full history."""
    bayes = Bayes(net, low=LOW, prior_points=20, history=HISTORY)
    random = np.random.default_rng(0)
    box = Box(net.space, LOW)
    for units in box.units(random.random((HISTORY + 20, box.dims))):
        width = box.width(units)
        error = float(2 - units.mean() / 64 + 0.05 * random.standard_normal())
        bayes.tell([width], [float(net.macs(width))], [error])
    return bayes


def measure(name: str, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    net = joslim.new(name, widths=[LOW, 1.0])
    bayes = filled(net)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 100, (BATCH,))
    held_out = [
        (torch.randn(BATCH, 3, 32, 32), torch.randint(0, 100, (BATCH,))) for _ in range(IMAGES // BATCH)
    ]
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    proposed = bayes.propose(2)
    net.train()

    def step() -> None:
        optimizer.zero_grad()
        accumulate_(net, images, labels, [1.0, *proposed, LOW])
        optimizer.step()

    step()
    one = statistics.median(seconds(step) for _ in range(steps))
    asked = bayes.to_measure()
    errors: list[float] = []
    measuring = seconds(
        lambda: errors.extend(evaluate(net, held_out, [w], norm="batch")[0].loss for w in asked)
    )
    bayes.measured_(errors)
    proposing = seconds(bayes.next_)
    rows = np.random.default_rng(0).integers(1, 16, (100_000, len(net.space.groups)))
    filtering = seconds(lambda: rows[net.macs(rows) <= 0.5 * net.macs(1.0)])
    share = (measuring + proposing) / (TAU * one)
    return {
        "step": one, "measured": len(asked), "measuring": measuring, "proposing": proposing, "share": share, "filtering": filtering,
    }  # fmt: skip


def table(found: dict[str, dict[str, float]]) -> str:
    lines = [
        f"Batch {BATCH}, tau {TAU}, a history of {HISTORY} widths measured on {IMAGES} images, two widths proposed; seconds, one CPU thread, torch {torch.__version__}.",
        "",
        f"| network | a step | {TAU} steps | measuring | proposing | share of the training | 100,000 widths filtered by MACs |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, f in found.items():
        lines.append(
            f"| {name} | {f['step']:.3f} | {TAU * f['step']:.1f} | {f['measuring']:.2f} | {f['proposing']:.2f} | {100 * f['share']:.1f} % | {f['filtering']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["slim_resnet20", "slim_resnet56"])
    where = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(name, where.steps) for name in where.models}
    publish(where.out, "joslim_overhead", table(found), {"found": found})
    print(table(found))


if __name__ == "__main__":
    main()
