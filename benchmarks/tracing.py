"""How long tracing takes, and what it needs: a large model without weights, deep models, threads, beside Torch-Pruning.

    python benchmarks/tracing.py                     # all, as a table
    python benchmarks/tracing.py llama depth         # some
    python benchmarks/tracing.py --json figures.json

CPU-seconds, one thread. Each figure has a process of its own, so that nobody's imports or memory are another one's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

NETWORKS = [
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "vgg11_bn", "regnet_y_400mf", "efficientnet_b0",
    "convnext_tiny", "googlenet", "squeezenet1_1", "mnasnet0_5", "resnext50_32x4d",
]  # fmt: skip
LIMIT = 120
"""Seconds for one figure."""


def llama() -> dict[str, float]:
    """A Llama of 1.1 billion parameters on the meta device: trace, a view, a copy."""
    import torch
    import transformers

    import anywidth as aw

    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    start = time.process_time()
    net = aw.Elastic(model.eval(), {"input_ids": torch.ones(1, 16, dtype=torch.long, device="meta")})
    traced = time.process_time() - start
    net.at(0.5)
    return {
        "parameters, billions": net.params(1.0) / 1e9,
        "CPU-s": traced,
        "peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "left at half width": net.params(0.5) / net.params(1.0),
    }


def depth() -> dict[str, float]:
    """Layers in a row: what twice as many cost."""
    import torch
    from torch import nn

    import anywidth as aw

    seconds = {}
    for layers in (50, 250, 500, 1000):
        model = nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(16, 16), nn.ReLU())))
        start = time.process_time()
        aw.Elastic(model, torch.randn(2, 16))
        seconds[f"{layers} layers, CPU-s"] = time.process_time() - start
    del seconds["50 layers, CPU-s"]  # the first one imports
    return seconds


def threads() -> dict[str, float]:
    """50 builds in 4 threads, beside two that run other models: how many spaces differ from the one of a single thread."""
    import torch
    import torchvision

    import anywidth as aw

    image = torch.randn(1, 3, 32, 32)

    def space() -> Any:
        return aw.Elastic(torchvision.models.resnet18(num_classes=10).eval(), image).space

    alone, built, done = space(), [], threading.Event()

    def run_others() -> None:
        other = torchvision.models.mobilenet_v2(num_classes=10).eval()
        while not done.is_set():
            with torch.no_grad():
                other(image)

    def build(count: int) -> None:
        built.extend(space() for _ in range(count))

    beside = [threading.Thread(target=run_others) for _ in range(2)]
    builders = [threading.Thread(target=build, args=(n,)) for n in (13, 13, 12, 12)]
    for thread in (*beside, *builders):
        thread.start()
    for thread in builders:
        thread.join()
    done.set()
    for thread in beside:
        thread.join()
    return {"builds": len(built), "that differ": sum(s != alone for s in built)}


def ours(name: str) -> dict[str, float]:
    import torch

    import anywidth as aw

    warm_up(lambda model, x: aw.Elastic(model, x).extract(0.5))
    model, x = network(name), torch.randn(1, 3, 224, 224)
    start = time.process_time()
    net = aw.Elastic(model, x)
    traced = time.process_time() - start
    net.extract(aw.prune.plan(net, budget="macs=50%", criterion="l2"))
    return {"analysis": traced, "with one pruning": time.process_time() - start}


def torch_pruning(name: str) -> dict[str, float]:
    """Its documented call, at a ratio that leaves about half of the multiply-adds."""
    import torch
    import torch_pruning as tp

    def pruner(model: Any, x: Any) -> Any:
        last = [
            m
            for m in model.modules()
            if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))
        ]
        importance = tp.importance.MagnitudeImportance(p=2)
        return tp.pruner.BasePruner(model, x, importance=importance, pruning_ratio=0.3, ignored_layers=last)

    warm_up(lambda model, x: pruner(model, x).step())
    model, x = network(name), torch.randn(1, 3, 224, 224)
    start = time.process_time()
    made = pruner(model, x)
    analysed = time.process_time() - start
    made.step()
    seconds = time.process_time() - start
    model(x)
    return {"analysis": analysed, "with one pruning": seconds}


def warm_up(use: Any) -> None:
    import torch
    from torch import nn

    use(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval(), torch.randn(1, 3, 8, 8))


def network(name: str) -> Any:
    import torchvision

    return getattr(torchvision.models, name)(weights=None).eval()


def measured(figure: str) -> dict[str, float]:
    """A figure from a process of its own; empty if it failed or took too long."""
    command = [sys.executable, __file__, "--figure", figure]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return {}
    return json.loads(run.stdout.splitlines()[-1])


def speed() -> dict[str, Any]:
    """Seconds over Torch-Pruning's, network by network, and in the median."""
    ratios: dict[str, list[float]] = {"analysis": [], "with one pruning": []}
    rows: dict[str, Any] = {}
    for name in NETWORKS:
        mine, theirs = measured(f"ours:{name}"), measured(f"torch_pruning:{name}")
        for what in ratios if mine and theirs else ():
            ratios[what].append(mine[what] / theirs[what])
        rows[name] = " ".join(
            f"{what} {mine.get(what, float('nan')):.2f}/{theirs.get(what, float('nan')):.2f}"
            for what in ratios
        )
        print(f"  {name}: {rows[name]}", flush=True)
    return rows | {f"median ratio, {what}": statistics.median(r) for what, r in ratios.items() if r}


FIGURES = {"llama": llama, "depth": depth, "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figures", nargs="*", choices=[*FIGURES, "speed", []], help="default: all")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--figure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.figure:
        import torch

        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        kind, _, name = args.figure.partition(":")
        function: Any = {**FIGURES, "ours": ours, "torch_pruning": torch_pruning}[kind]
        print(json.dumps(function(name) if name else function()))
        return
    results = {}
    for figure in args.figures or [*FIGURES, "speed"]:
        print(figure, flush=True)
        results[figure] = speed() if figure == "speed" else measured(figure)
        for what, value in results[figure].items():
            if not isinstance(value, str):
                print(f"  {what}: {value:.3g}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
