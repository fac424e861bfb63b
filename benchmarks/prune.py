"""Pruning to half the multiply-adds, beside Torch-Pruning: does it work, how long does it take, how fast is the result?

    python benchmarks/prune.py                                  # the models of coverage.py, into docs/
    python benchmarks/prune.py --models tv:resnet50 timm:deit_tiny_patch16_224
    python benchmarks/prune.py --quick --out FOLDER             # a smoke run

Each model has a process of its own, in which both tools prune copies of the same network, one thread. Both rank channels by
the L2 norm of their weights, in every layer on its own (the default of Torch-Pruning) or over all (`--scope global`).
CPU-seconds: ours are tracing, the plan with its search for the budget, and the compact network; those of Torch-Pruning are one
dependency graph and one pruning at the ratio that a search found before, which is not counted. Limits: 60 CPU-seconds each, and 10 GiB.
Multiply-adds of all networks come from torch's FLOP counter, halved. A success runs forward and backward, has outputs of the
same shape, and 45 to 55 % of the multiply-adds; "missed" does all but the last. Latencies of the original and of both
pruned networks are measured in turns.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coverage import CPU_SECONDS, make, names
from results import publish

SHARE, SLACK = 0.5, 0.05
TOOLS = ("anywidth", "torch-pruning")
STOPPED = f"stopped after {CPU_SECONDS} CPU-seconds"
TRIES, CLOSE, SEARCH_SECONDS = 9, 0.005, 300  # the search for Torch-Pruning's ratio
WALL_SECONDS = 3600
TURN_SECONDS = 5.0  # small networks take more turns, up to ten times as many
MEMORY = 10 << 30  # bytes of addresses, about 3 GiB of which hold libraries
QUICK = ["tv:resnet18", "timm:deit_tiny_patch16_224"]


class Stopped(BaseException):
    """The limit was reached; no `except Exception` of a tool takes it for an error of its own."""


class UnprunableError(Exception):
    """Why a tool failed. The first error itself would keep alive all that the tool had made, which can be gigabytes."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """At most so many CPU-seconds."""

    def stop(*_: Any) -> None:
        raise Stopped

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def count_macs(model: Any, example: Any) -> float:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from anywidth.tracing.trace import call

    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is unknown to the counter
    model = copy.deepcopy(model).requires_grad_(
        False
    )  # the counter's hooks stumble over parameters that are expanded
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call(model, example)
    return counter.get_total_flops() / 2


def shapes(out: Any) -> Any:
    """Shapes of all outputs; the number of detections is no shape."""
    if isinstance(out, list) and all(isinstance(one, dict) for one in out):
        return [{name: tuple(t.shape[1:]) for name, t in one.items()} for one in out]
    if isinstance(out, dict):
        return {name: shapes(t) for name, t in out.items()}
    if isinstance(out, list | tuple):
        return [shapes(t) for t in out]
    return tuple(out.shape)


def try_out(model: Any, example: Any, expected: Any) -> None:
    """Forward and backward of a copy.

    Raises:
        ArithmeticError: other shapes, no gradients, or numbers that are not finite.
    """
    import torch

    from anywidth.tracing.trace import call
    from coverage import flatten

    model = copy.deepcopy(model)
    out = call(model, example)
    if shapes(out) != expected:
        raise ArithmeticError(f"outputs of shape {shapes(out)}, not {expected}")
    if isinstance(out, list):  # a detector: only in training do its outputs always exist
        targets = [{"boxes": torch.tensor([[10.0, 10.0, 90.0, 90.0]]), "labels": torch.tensor([1])}]
        out = list(model.train()(*example, targets).values())
    loss = flatten(out).square().mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if not grads or not all(bool(torch.isfinite(g).all()) for g in (loss, *grads)):
        raise ArithmeticError("outputs or gradients are not finite")


def ours(model: Any, example: Any, scope: str) -> tuple[Any, dict[str, Any]]:
    """The pruned network, and how it was made; groups whose channels the model routes by position go only if they must."""
    import anywidth as aw
    from anywidth import prune

    options: Any = {"criterion": "l2", "scope": scope, "budget": f"macs={SHARE:.0%}"}
    start = time.process_time()
    net = aw.Elastic(model, example)
    traced = time.process_time() - start
    try:
        plan, positional = prune.planned(net, **options), False
    except aw.errors.WidthError:
        plan, positional = prune.planned(net, positional=True, **options), True
    planned = time.process_time() - start
    small = net.extract(plan.width)
    return small, {
        "seconds": time.process_time() - start,
        "trace_seconds": traced,
        "plan_seconds": planned - traced,
        "ratio": plan.ratio,
        "positional": positional,
        "protected": len(plan.protected),
        "macs_by_formula": net.macs(plan.width),
    }


def pruned_by_torch_pruning(model: Any, example: Any, ratio: float, scope: str) -> None:
    """As its examples for torchvision and timm do: layers that make the outputs ignored, heads named, attributes mended."""
    import torch_pruning as tp

    heads = {
        getattr(m, name): m.num_heads
        for m in model.modules()
        for name in ("qkv", "qkv_proj")
        if hasattr(m, "num_heads") and hasattr(m, name)
    }
    vision = hasattr(model, "hidden_dim") and hasattr(model, "conv_proj")  # torchvision's ViT
    fused = [m for m in model.modules() if getattr(m, "fused_attn", False)]
    for m in fused:  # its examples trace attention that is not fused
        m.fused_attn = False
    pruner = tp.pruner.MagnitudePruner(
        model, example, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio,
        global_pruning=scope == "global", isomorphic=scope == "global", ignored_layers=ignored(model), num_heads=heads,
        round_to=model.encoder.layers[0].num_heads if vision else None, in_channel_groups={}, out_channel_groups={},
    )  # fmt: skip
    pruner.step()
    for m in fused:
        m.fused_attn = True
    if vision:
        model.hidden_dim = model.conv_proj.out_channels
    for m in model.modules():
        layer = getattr(m, "qkv", getattr(m, "qkv_proj", None))
        if layer in heads:
            m.num_heads = pruner.num_heads[layer]
            channels = getattr(layer, "out_features", getattr(layer, "out_channels", 0)) // 3
            for name, value in (("head_dim", channels // m.num_heads), ("attn_dim", channels)):
                if hasattr(m, name):
                    setattr(m, name, value)


def ignored(model: Any) -> list[Any]:
    """Layers that must keep their outputs."""
    import torch

    paths = (
        "rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads", "head.classification_head.cls_logits",
        "head.regression_head.bbox_reg",
    )  # fmt: skip
    found = [m for path, m in model.named_modules() if path in paths]
    if "roi_heads" in dict(model.named_children()):
        found.append(model.backbone.fpn)
    outputs = [
        m
        for m in model.modules()
        if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
        and getattr(m, "out_features", getattr(m, "out_channels", 0)) == 1000
    ]
    return found + outputs


def theirs(model: Any, example: Any, macs: float, scope: str) -> tuple[Any, dict[str, Any]]:
    """The pruned network nearest to the budget; `seconds` are those of this one pruning."""
    best: tuple[Any, dict[str, Any]] | None = None
    why = ""
    low, high, ratio = 0.0, 1.0, 0.3
    others = [0.5, 0.25]
    begin = time.process_time()
    for turn in range(TRIES):
        if turn and time.process_time() - begin > SEARCH_SECONDS:
            break
        made = copy.deepcopy(model)
        try:
            with limited(CPU_SECONDS):
                start = time.process_time()
                pruned_by_torch_pruning(made, example, ratio, scope)
                seconds = time.process_time() - start
            share = count_macs(made, example) / macs
        except (Exception, Stopped) as error:
            stopped = isinstance(error, Stopped)
            why = why or (STOPPED if stopped else message(error))
            del error, made
            gc.collect()
            if best is None and (not others or stopped):
                break
            ratio = others.pop(0) if best is None else (ratio + best[1]["ratio"]) / 2
            continue
        if best is None or abs(share - SHARE) < abs(best[1]["macs"] - SHARE):
            best = made, {"seconds": seconds, "ratio": ratio, "macs": share}
        if abs(share - SHARE) <= CLOSE:
            break
        low, high = (ratio, high) if share > SHARE else (low, ratio)
        ratio = (low + high) / 2
    if best is None:
        raise UnprunableError(why)
    return best


def judged(
    make_pruned: Callable[[], tuple[Any, dict[str, Any]]], example: Any, macs: float, expected: Any
) -> Any:
    """What a tool made (None: nothing that runs), and how it went."""
    about: dict[str, Any] = {}
    try:
        small, about = make_pruned()
        about["macs"] = count_macs(small, example) / macs
        try_out(small, example, expected)
    except Stopped:
        return None, {**about, "status": "no", "error": STOPPED}
    except Exception as error:
        return None, {**about, "status": "no", "error": message(error)}
    met = abs(about["macs"] - SHARE) <= SLACK
    return small, {**about, "status": "yes" if met else "missed"}


def message(error: BaseException) -> str:
    """The first line, without folders of this machine."""
    lines = str(error).splitlines() or [""]
    text = lines[0] if isinstance(error, UnprunableError) else f"{type(error).__name__}: {lines[0]}"
    return re.sub(r"/\S*/", "", text)[:200].rstrip(": ")


def warm() -> None:
    """Neither tool pays for modules that are imported when first used."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    x = torch.randn(1, 3, 8, 8)
    ours(net, x, "layer")
    pruned_by_torch_pruning(net, x, 0.3, "layer")


def worker(name: str, where: argparse.Namespace) -> None:
    """Prints the results so far after each tool: a crash of the second does not take the first along."""
    import logging
    import warnings

    import torch

    from anywidth.cost.latency import measure_all
    from anywidth.tracing.trace import call

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    model, example = make(name)
    with torch.no_grad():
        expected = shapes(call(model, example))
    macs = count_macs(model, example)
    warm()
    found: dict[str, Any] = {"macs": macs}
    nets = {"original": model}

    def within_limit() -> tuple[Any, dict[str, Any]]:
        with limited(CPU_SECONDS):
            return ours(copy.deepcopy(model), example, where.scope)

    makers = {
        "anywidth": within_limit,
        "torch-pruning": lambda: theirs(model, example, macs, where.scope),
    }
    for tool in where.tools:
        small, found[tool] = judged(makers[tool], example, macs, expected)
        if small is not None:
            nets[tool] = small
        print("RESULT " + json.dumps(found), flush=True)
    if where.repeats < 2 or len(nets) < 2:
        return
    with torch.inference_mode():
        calls = {tool: (lambda net=net: call(net, example)) for tool, net in nets.items()}
        turn = sum(one.median for one in measure_all(calls, warmup=1, repeats=2, threads=1).values())
        repeats = max(where.repeats, min(10 * where.repeats, round(TURN_SECONDS / turn)))
        times = measure_all(calls, warmup=2, repeats=repeats, threads=1)
    found["original_ms"] = 1e3 * times["original"].median
    for tool in nets.keys() - {"original"}:
        found[tool]["latency"] = times[tool].median / times["original"].median
    print("RESULT " + json.dumps(found), flush=True)


def launch(name: str, where: argparse.Namespace) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--worker",
        name,
        "--scope",
        where.scope,
        "--repeats",
        str(where.repeats),
    ]
    command += ["--tools", *where.tools]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=WALL_SECONDS
        )
        out, why = (
            run.stdout,
            f"crashed (exit {run.returncode}): {' '.join(run.stderr.splitlines()[-1:])[:120]}",
        )
    except subprocess.TimeoutExpired as error:
        out = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        why = f"stopped after {WALL_SECONDS} seconds"
    lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
    found = json.loads(lines[-1][len("RESULT ") :]) if lines else {}
    return {**{tool: {"status": "no", "error": re.sub(r"/\S*/", "", why)} for tool in where.tools}, **found}


def cells(found: dict[str, Any] | None) -> str:
    """Success, CPU-seconds, MACs, latency of one tool."""
    if found is None:
        return "- | - | - | -"
    verdict = {"yes": "yes", "missed": "missed", "no": "no"}[found["status"]]
    if found.get("positional"):
        verdict += ", positional"

    def number(key: str, form: str) -> str:
        return format(found[key], form) if key in found else "-"

    return f"{verdict} | {number('seconds', '.2f')} | {number('macs', '.1%')} | {number('latency', '.2f')}"


def line(name: str, row: dict[str, Any]) -> str:
    return f"| {name} | {' | '.join(cells(row.get(tool)) for tool in TOOLS)} |"


def summary(rows: dict[str, dict[str, Any]]) -> list[str]:
    """What the table says in a few lines."""
    found = []
    for tool in TOOLS:
        mine = [r[tool] for r in rows.values() if tool in r]
        if mine:
            count = {status: sum(r["status"] == status for r in mine) for status in ("yes", "missed", "no")}
            label = {"anywidth": "anywidth", "torch-pruning": "Torch-Pruning"}[tool]
            slowest = max((r["seconds"] for r in mine if "seconds" in r), default=0.0)
            found.append(
                f"{label}: {count['yes']} of {len(mine)} succeeded, {count['missed']} ran but missed the budget, "
                f"{count['no']} failed; slowest {slowest:.1f} CPU-seconds"
            )
    both = [r for r in rows.values() if all(r.get(tool, {}).get("status") == "yes" for tool in TOOLS)]
    if both:
        ratio = statistics.median(r["anywidth"]["seconds"] / r["torch-pruning"]["seconds"] for r in both)
        found.append(
            f"CPU-seconds of anywidth over those of Torch-Pruning, median of the {len(both)} models on which both succeeded: {ratio:.2f}"
        )
        timed = [r for r in both if all("latency" in r[tool] for tool in TOOLS)]
        if timed:
            ours, theirs = (statistics.median(r[tool]["latency"] for r in timed) for tool in TOOLS)
            apart = statistics.median(r["anywidth"]["latency"] / r["torch-pruning"]["latency"] for r in timed)
            found.append(
                f"Latency over that of the original, median of these models: anywidth {ours:.2f}, Torch-Pruning {theirs:.2f} "
                f"(median of anywidth over Torch-Pruning: {apart:.2f})"
            )
    return found


def page(rows: dict[str, dict[str, Any]], where: argparse.Namespace, versions: str) -> str:
    how = "in every layer on its own" if where.scope == "layer" else "over all layers"
    lines = [
        f"Half the multiply-adds, L2 norm, ranked {how}; batch 1, one thread, medians of {where.repeats} turns (of small networks up to ten times as many); {versions}. "
        '"missed": ran, but not with 45 to 55 % of the MACs; "positional": the budget could only be met with '
        "`positional=True`; latency relative to the original.",
        "",
        *(f"- {text}" for text in summary(rows)),
        "",
        "| model | anywidth | CPU s | MACs | latency | Torch-Pruning | CPU s | MACs | latency |",
        "|---|---|---:|---:|---:|---|---:|---:|---:|",
        *(line(name, row) for name, row in rows.items()),
    ]
    errors = [
        f"| {name} | {tool} | {row[tool]['error'].replace('|', '/')} |"
        for name, row in rows.items()
        for tool in TOOLS
        if row.get(tool, {}).get("error")
    ]
    if errors:
        lines += ["", "| failed | tool | message |", "|---|---|---|", *errors]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--models", nargs="+", help="tv:NAME, timm:NAME or det:NAME (default: all)")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--scope", default="layer", choices=["layer", "global"])
    parser.add_argument("--repeats", type=int, default=15, help="least turns of the latency; 0: none")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    where = parser.parse_args()
    if where.worker:
        worker(where.worker, where)
        return
    if where.quick:
        where.models, where.repeats = where.models or QUICK, 2
    chosen = where.models or names()
    rows: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(where.jobs) as pool:
        for name, row in zip(chosen, pool.map(lambda n: launch(n, where), chosen), strict=True):
            rows[name] = row
            print(line(name, row), *(row[t].get("error", "") for t in where.tools), flush=True)
    from importlib.metadata import version

    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "torchvision", "timm", "torch-pruning"))
    settings = {key: getattr(where, key) for key in ("tools", "scope", "repeats", "jobs")}
    numbers = {"settings": settings, "versions": versions, "summary": summary(rows), "rows": rows}
    publish(where.out, "prune", page(rows, where, versions), numbers)
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
