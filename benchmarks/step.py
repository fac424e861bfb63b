"""What does elasticity cost? ResNet-50: training steps, inference, `at`, the cost model, memory.

    python benchmarks/step.py                     # table to the terminal
    python benchmarks/step.py --out docs/step     # also step.md and step.json there
    python benchmarks/step.py --quick             # ResNet-18, fewer repeats (a smoke run)

Everything is timed in one process in turns (A B C A B C ...), and ratios of medians are reported; memory in processes of
its own. The slice-in-forward column is what public slimmable repositories do: every layer slices its full weight inside
the autograd graph.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

import anywidth as aw
from anywidth.view import cut

WIDTHS = [0.25, 0.5, 0.75, 1.0]
THREADS = 2


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(weights=None)


def in_turns(tasks: dict[str, Callable[[], Any]], repeats: int, warm: int = 2) -> dict[str, list[float]]:
    """Seconds of every task, `repeats` times, the tasks taking turns."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(warm + repeats):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if i >= warm:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], a: str, b: str) -> float:
    """Median of a over b, turn by turn: what disturbs a turn disturbs both."""
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


class SliceInForward(nn.Module):
    """A narrow network as slices of wide parameters inside the graph (the usual implementation)."""

    def __init__(self, net: aw.Elastic, width: float) -> None:
        super().__init__()
        self.small = net.extract(width)
        chosen = net.width(width)
        self.cuts = {n: cut(net.space, n, chosen) for n, _ in net.model.named_parameters()}
        self.wide = dict(net.model.named_parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = {n: p if (c := self.cuts[n]) is None else c.of(p) for n, p in self.wide.items()}
        return torch.func.functional_call(self.small, narrow, (x,))


def training(name: str, batch: int, size: int, repeats: int) -> dict[str, float]:
    net = aw.Elastic(model(name), torch.randn(1, 3, size, size), widths=WIDTHS)
    compact = [net.extract(w).train() for w in WIDTHS]
    sliced = [SliceInForward(net, w).train() for w in WIDTHS]
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    net.train()

    def step(forwards: list[Callable[[torch.Tensor], torch.Tensor]], owners: list[nn.Module]) -> None:
        for owner in owners:
            owner.zero_grad(set_to_none=True)
        for forward in reversed(forwards):  # widest first, as the sandwich rule does
            nn.functional.cross_entropy(forward(x), y).backward()

    times = in_turns(
        {
            "views": lambda: step([net.at(w) for w in WIDTHS], [net]),
            "compact": lambda: step(list(compact), list(compact)),
            "sliced": lambda: step(list(sliced), [net]),
        },
        repeats,
    )
    return {
        "views / compact": ratio(times, "views", "compact"),
        "slice-in-forward / compact": ratio(times, "sliced", "compact"),
        "views, s": statistics.median(times["views"]),
    }


def inference(name: str, batch: int, size: int, repeats: int) -> dict[str, float]:
    """View against extracted model per width; each in the memory format that is faster for it."""
    found = {}
    net = aw.Elastic(model(name), torch.randn(1, 3, size, size), widths=WIDTHS).train()
    x = torch.randn(batch, 3, size, size)
    net.calibrate([x], batches=1)
    net.eval()
    compact = {w: net.extract(w).eval() for w in WIDTHS}
    both = {"contiguous": (net, compact, x)}
    import copy

    last = torch.channels_last
    both["channels-last"] = (
        copy.deepcopy(net).to(memory_format=last).eval(),
        {w: copy.deepcopy(m).to(memory_format=last) for w, m in compact.items()},
        x.contiguous(memory_format=last),
    )
    with torch.no_grad():
        for w in WIDTHS:
            tasks: dict[str, Callable[[], Any]] = {}
            for layout, (wide, small, image) in both.items():
                tasks[f"view {layout}"] = partial(wide.at(w), image)
                tasks[f"compact {layout}"] = partial(small[w], image)
            times = in_turns(tasks, repeats)
            best = {
                k: min((t for t in times if t.startswith(k)), key=lambda t: statistics.median(times[t]))
                for k in ("view", "compact")
            }
            found[f"view / extracted at {w}"] = ratio(times, best["view"], best["compact"])
    return found


def making(name: str) -> dict[str, float]:
    start = time.process_time()
    net = aw.Elastic(model(name), torch.randn(1, 3, 224, 224))
    trace = time.process_time() - start
    generator = torch.Generator().manual_seed(0)
    new = []
    for w in [net.space.sample(generator) for _ in range(60)]:
        start = time.perf_counter()
        net.at(w)
        new.append(time.perf_counter() - start)
    cached = []
    for _ in range(300):
        start = time.perf_counter()
        net.at(w)
        cached.append(time.perf_counter() - start)
    rng = np.random.default_rng(0)
    kept = np.stack([rng.integers(1, g.size + 1, 100_000) for g in net.space.groups], axis=1)
    net.macs(kept[:1])
    start = time.perf_counter()
    net.macs(kept)
    return {
        "trace, CPU s": trace,
        "at, new, ms": statistics.median(new[5:]) * 1e3,
        "at, cached, us": statistics.median(cached) * 1e6,
        "MACs of 1e5 random widths, s": time.perf_counter() - start,
    }


def high_water() -> int:
    """Peak resident memory of this process so far, KiB (ru_maxrss would include the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def memory_worker(kind: str, name: str, batch: int, size: int) -> None:
    """Print the peak resident memory, above that of the bare process, of one training step."""
    torch.set_num_threads(THREADS)
    base = high_water()
    wide = model(name)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    if kind == "views":
        net = aw.Elastic(wide, torch.randn(1, 3, 32, 32), widths=WIDTHS).train()
        for _ in range(2):
            net.zero_grad(set_to_none=True)
            for w in reversed(WIDTHS):
                nn.functional.cross_entropy(net.at(w)(x), y).backward()
    else:
        wide.train()
        for _ in range(2):
            wide.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(wide(x), y).backward()
    print(high_water() - base)


def memory(name: str, batch: int, size: int) -> dict[str, float]:
    def peak(kind: str) -> float:
        command = [sys.executable, __file__, "--memory", kind, name, str(batch), str(size)]
        # A fixed threshold: freed blocks go back to the system, so that the peak is memory in use and not what the
        # allocator happens to hold (without it the same process differs by 10 % from run to run).
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
        runs = [
            subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            for _ in range(3)
        ]
        return statistics.median(int(run.stdout) for run in runs)

    wide, views = peak("wide"), peak("views")
    return {
        "peak of the 4-width step / the widest net's own": views / wide,
        "the widest net's own, MiB": wide / 1024,
    }


LIMITS = {"views / compact": 1.10, "trace, CPU s": 2.0, "at, new, ms": 3.0, "at, cached, us": 50.0, "MACs of 1e5 random widths, s": 1.0, "peak of the 4-width step / the widest net's own": 1.15} | {
    f"view / extracted at {w}": 1.05 for w in WIDTHS
}  # fmt: skip


def table(results: dict[str, float]) -> str:
    rows = [f"| {k} | {v:.3g} | {LIMITS.get(k, '')} |" for k, v in results.items()]
    return "\n".join(["| what | measured | wanted at most |", "|---|---:|---:|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        kind, name, batch, size = args.memory
        memory_worker(kind, name, int(batch), int(size))
        return
    torch.set_num_threads(THREADS)
    name, batch, size, repeats = ("resnet18", 4, 64, 3) if args.quick else ("resnet50", 16, 128, 9)
    results = making(name)
    results |= training(name, batch, size, repeats)
    results |= inference(name, 8, size, 8 * repeats)
    results |= memory(name, batch, size)
    versions = f"{name}, batch {batch}, {size} px, torch {torch.__version__}, {THREADS} threads, {platform.machine()}, Python {platform.python_version()}"
    print(versions + "\n\n" + table(results))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "step.json").write_text(
            json.dumps({"setting": versions, "results": results}, indent=1) + "\n"
        )
        (args.out / "step.md").write_text(
            f"# Cost of elasticity\n\nMade by `python benchmarks/step.py --out docs/step` ({versions}).\nMedians of one run; ratios turn by turn.\n\n{table(results)}\n"
        )


if __name__ == "__main__":
    main()
