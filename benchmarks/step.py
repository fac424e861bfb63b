"""What does elasticity cost? Training steps, inference, `at`, the cost model, memory.

    python benchmarks/step.py                          # tables to the terminal
    python benchmarks/step.py --out docs/step          # also step.md and step.json there
    python benchmarks/step.py --only inference         # training, compiled, inference, making, memory or flat
    python benchmarks/step.py --only memory --before DIR   # peak memory also with the package in DIR/src
    python benchmarks/step.py --quick                  # few repeats (a smoke run)

Pairs run in one process in turns (A B A B ...); a ratio is the median over turns, with its quartiles. Memory is measured in
processes of its own.
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
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from torch import nn

import anywidth as aw

WIDTHS = [0.25, 0.5, 0.75, 1.0]
THREADS = 2
PARTS = ("training", "compiled", "inference", "making", "memory", "flat")
Row = tuple[str, str, float | None]
"""What was measured, the figures, the most that is wanted."""


def model(name: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    if name == "mlp_1000":
        return nn.Sequential(*[m for _ in range(1000) for m in (nn.Linear(8, 8), nn.ReLU())])
    if name == "vit_tiny":
        return timm.create_model("vit_tiny_patch16_224", img_size=size)
    return getattr(torchvision.models, name)(weights=None)


def elastic(name: str, size: int) -> aw.Elastic:
    x = torch.randn(1, 8) if name == "mlp_1000" else torch.randn(1, 3, size, size)
    return aw.Elastic(model(name, size), x, widths=WIDTHS)


def in_turns(
    a: Callable[[], Any], b: Callable[[], Any], repeats: int, warm: int = 2
) -> tuple[list[float], list[float]]:
    """Seconds of two tasks that take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(warm + repeats):
        for task, seconds in zip((a, b), times, strict=True):
            start = time.perf_counter()
            task()
            if i >= warm:
                seconds.append(time.perf_counter() - start)
    return times


def ratio(a: list[float], b: list[float]) -> str:
    """Median of a over b, turn by turn, with quartiles: what disturbs a turn disturbs both."""
    low, middle, high = statistics.quantiles([x / y for x, y in zip(a, b, strict=True)], n=4)
    return f"{middle:.3f} ({low:.3f}..{high:.3f}, {len(a)} pairs)"


def per_call(task: Callable[[], Any], repeats: int, calls: int) -> float:
    """Seconds of a call, the median over `repeats` of the mean over `calls`."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            task()
        found.append((time.perf_counter() - start) / calls)
    return statistics.median(found)


def step(
    views: Callable[[], list[nn.Module]], owners: list[nn.Module], x: torch.Tensor, y: torch.Tensor
) -> None:
    """Forward and backward of every width, the widest first, as the sandwich rule does."""
    for owner in owners:
        owner.zero_grad(set_to_none=True)
    for view in reversed(views()):
        nn.functional.cross_entropy(view(x), y).backward()


def training(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name, batch, size in (("resnet50", 8, 96), ("mobilenet_v2", 8, 96), ("vit_tiny", 4, 224)):
        net = elastic(name, size)
        compact = [net.extract(w).train() for w in WIDTHS]
        x, y = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
        net.train()
        a, b = in_turns(
            lambda net=net, x=x, y=y: step(lambda: [net.at(w) for w in WIDTHS], [net], x, y),
            lambda small=compact, x=x, y=y: step(lambda: small, list(small), x, y),
            2 if quick else 9,
        )
        rows.append(
            (
                f"step over four widths / four compact networks, {name}, {size} px, batch {batch}",
                ratio(a, b),
                1.05,
            )
        )
    return rows


def compiled(quick: bool) -> list[Row]:
    net = elastic("resnet18", 96).train()
    small = [net.extract(w).train() for w in WIDTHS]
    if quick:
        net.compile(WIDTHS, backend="eager")
    else:
        net.compile(WIDTHS)
        small = [torch.compile(m) for m in small]
    x, y = torch.randn(8, 3, 96, 96), torch.randint(0, 1000, (8,))
    a, b = in_turns(
        lambda: step(lambda: [net.at(w) for w in WIDTHS], [net], x, y),
        lambda: step(lambda: small, list(small), x, y),
        2 if quick else 9,
    )
    return [
        (
            "compiled step over four widths / four compact networks, resnet18, 96 px, batch 8",
            ratio(a, b),
            1.05,
        )
    ]


def inference(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name in ("resnet18", "mobilenet_v2", "vit_tiny"):
        net = elastic(name, 224).train()
        if name != "vit_tiny":
            net.calibrate([torch.randn(2, 3, 224, 224)], widths=[0.25], batches=1)
        net.eval()
        view, small, x = net.at(0.25), net.extract(0.25).eval(), torch.randn(1, 3, 224, 224)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                a, b = in_turns(
                    lambda v=view, x=x: v(x), lambda s=small, x=x: s(x), 10 if quick else 151, warm=10
                )
            mode = "gradients enabled" if grad else "no gradients"
            rows.append(
                (
                    f"view / extracted, {name}, 224 px, batch 1, width 0.25, {mode}",
                    ratio(a, b),
                    None if grad else 1.06,
                )
            )
    return rows


def making(quick: bool) -> list[Row]:
    rows: list[Row] = []
    repeats = 3 if quick else 25
    for name in ("resnet50", "mobilenet_v2", "mlp_1000"):
        start = time.process_time()
        net = elastic(name, 64)
        rows.append((f"tracing, {name}, CPU s", f"{time.process_time() - start:.2f}", None))
        generator = torch.Generator().manual_seed(0)
        widths = iter([net.space.sample(generator) for _ in range(2 * repeats + 2)])
        net.at(0.5)
        rows.append(
            (f"at, cached, {name}, us", f"{1e6 * per_call(lambda n=net: n.at(0.5), repeats, 50):.1f}", 50.0)
        )
        new = 1e3 * per_call(lambda n=net, w=widths: n.at(next(w)), repeats, 1)
        rows.append((f"at, new, {name}, ms", f"{new:.2f}", None if name == "mlp_1000" else 5.0))
        net.macs(0.5)
        rows.append(
            (
                f"macs, {name}, us",
                f"{1e6 * per_call(lambda n=net: n.macs(0.5), repeats, 50):.1f}",
                None if name == "mlp_1000" else 30.0,
            )
        )
        first = 1e6 * per_call(lambda n=net, w=widths: n.macs(next(w)), repeats, 1)
        rows.append((f"macs of a width for the first time, {name}, us", f"{first:.1f}", None))
        kept = np.stack(
            [np.random.default_rng(0).integers(1, g.size + 1, 100_000) for g in net.space.groups[:64]], axis=1
        )
        if name != "mlp_1000":
            start = time.perf_counter()
            net.macs(kept)
            rows.append((f"macs of 100,000 widths, {name}, s", f"{time.perf_counter() - start:.3f}", 1.0))
    return rows


def status(key: str) -> int:
    """A line of this process's status in KiB: `VmHWM` is the peak of resident memory, `VmRSS` its present size."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(key)).split()[1])


def memory_worker(name: str) -> None:
    """Print the peak of resident memory in steps over four widths, above that of the bare model, in KiB."""
    torch.set_num_threads(THREADS)
    net = elastic(name, 96).train()
    x, y = torch.randn(8, 3, 96, 96), torch.randint(0, 1000, (8,))
    base = status("VmRSS")
    for _ in range(3):
        step(lambda: [net.at(w) for w in WIDTHS], [net], x, y)
    print(status("VmHWM") - base)


def run_worker(arguments: list[str], source: Path | None) -> int:
    # A fixed threshold: freed blocks go back to the system, so that the peak is memory in use and not what the
    # allocator happens to hold (without it the same process differs by 10 % from run to run).
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
    if source is not None:
        environment["PYTHONPATH"] = str(source / "src")
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1])


def memory(quick: bool, before: Path | None) -> list[Row]:
    rows: list[Row] = []
    for name in ("resnet50", "mobilenet_v2"):
        sources = [None] if before is None else [None, before]
        runs = [[run_worker(["--memory", name], s) for s in sources] for _ in range(1 if quick else 5)]
        now = statistics.median(r[0] for r in runs)
        rows.append(
            (f"peak of a step over four widths above the bare model, {name}, MiB", f"{now / 1024:.1f}", None)
        )
        if before is not None:
            old = statistics.median(r[1] for r in runs)
            rows.append(
                (
                    f"the same / the same before, {name}",
                    f"{now / old:.3f} ({old / 1024:.1f} MiB before)",
                    1.05,
                )
            )
    return rows


def flat(quick: bool) -> list[Row]:
    """Resident memory over many random widths."""
    rows: list[Row] = []
    count = 60 if quick else 2000
    net = elastic("mobilenet_v2", 32)
    x, y = torch.randn(2, 3, 32, 32), torch.randint(0, 1000, (2,))
    net.norms.lenient = True
    for mode in ("training", "inference"):
        net.train(mode == "training")
        net.zero_grad()  # copies for inference are not kept while a step may be about to come
        generator, seen = torch.Generator().manual_seed(0), []
        for i in range(count):
            view = net.at(net.space.sample(generator))
            if mode == "training":
                net.zero_grad()
                nn.functional.cross_entropy(view(x), y).backward()
            else:
                for m in view.modules():
                    if isinstance(m, nn.BatchNorm2d):
                        m._buffers["num_batches_tracked"].fill_(1)
                with torch.no_grad():
                    view(x)
            if i in (count // 4, count - 1):
                seen.append(status("VmRSS") / 1024)
        bound = net._packs.limit / 2**20
        text = f"{seen[0]:.0f} MiB after {count // 4}, {seen[1]:.0f} after {count}; copies {net._packs.bytes / 2**20:.0f} of {bound:.0f}"
        rows.append((f"resident memory over random widths, mobilenet_v2, {mode}", text, None))
    return rows


WHY = """Why a step of ResNet-50 costs more than 1.05: the gradient of a slice has the size of the wide parameter. At width 0.25 its backward pass
clears and adds 25 million numbers where the compact network has 2 million. That is the price of a view that is in the graph like any slice."""


def table(rows: list[Row]) -> str:
    lines = [f"| {what} | {value} | {'' if most is None else most} |" for what, value, most in rows]
    return "\n".join(["| what | measured | wanted at most |", "|---|---:|---:|", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--before", type=Path, help="a checkout to compare memory with")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        memory_worker(args.memory)
        return
    torch.set_num_threads(THREADS)
    rows: list[Row] = []
    for part in args.only or PARTS:
        found = memory(args.quick, args.before) if part == "memory" else globals()[part](args.quick)
        print(table(found) if not rows else table(found).split("\n", 2)[2], flush=True)
        rows += found
    versions = f"torch {torch.__version__}, {THREADS} threads, {platform.machine()}, Python {platform.python_version()}"
    print(f"\n{versions}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "step.json").write_text(json.dumps({"setting": versions, "rows": rows}, indent=1) + "\n")
        text = f"Made by `python benchmarks/step.py --out docs/step` ({versions}).\nRatios are medians over pairs that took turns, with quartiles."
        (args.out / "step.md").write_text(f"# Cost of elasticity\n\n{text}\n\n{table(rows)}\n\n{WHY}\n")


if __name__ == "__main__":
    main()
