"""What a gate costs: DS-MBNet at 224 pixels, gated among its four narrowest widths, against static networks and against masks.

    python benchmarks/gate_speed.py                     # a few minutes on a CPU core

Weights are random and the gate is balanced, so that all four routes are taken. The static time of a batch is the mean of the times of the networks that
its images are sent to. "masked" runs the widest choice for all images and cuts it by masks, "full" does so with the 640 and 1152 channels of the
published code. "in chunks" is that time with the batch cut into 8 images at a time, as gated inference cuts it on a CPU. All are timed in turns; the table goes to OUT/results.md, numbers to OUT/results/gate_speed.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anywidth.cost.latency import measure_all
from anywidth.elastic import Elastic
from anywidth.gating import Cut, DynamicNet, Routes, new_gates, walk
from anywidth.gating.masked import Masked
from anywidth.interop import dsnet
from results import publish

GATE = Cut(at="stages.3.0.depthwise.attention", feature="stages.3.0.depthwise.attention.squeeze")
WIDTHS = (0, 1, 2, 3)
CHUNK = 8


def measure(batch: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net = dsnet.new()
    with torch.inference_mode():
        return _measured(net, batch, repeats)


def _measured(net: Elastic, batch: int, repeats: int) -> dict[str, Any]:
    x = torch.randn(batch, 3, 224, 224)
    net.calibrate([x[:8].repeat(-(-8 // len(x[:8])), 1, 1, 1)], widths=[*WIDTHS, 13], batches=1)
    net.eval()
    routes = Routes(net, [GATE], WIDTHS)
    gates = new_gates(routes.features(x[:1]), len(WIDTHS))
    nodes, _ = walk(routes, list(gates), x)
    gates[0].bias -= nodes[0].logits.mean(0)  # pyright: ignore[reportOperatorIssue, reportCallIssue]
    gated = DynamicNet(routes, list(gates))
    taken = gated.routed(x).routes.flatten()
    statics = {str(k): net.extract(k).eval() for k in sorted(set(taken.tolist()))}
    full = Routes(net, [GATE], [*WIDTHS, 13])
    calls: dict[str, Any] = {"gated": lambda: gated(x)}
    calls |= {k: (lambda m=m: m(x)) for k, m in statics.items()}
    calls |= {f"chunked {k}": (lambda m=m: _in_chunks(m, x)) for k, m in statics.items()}
    calls |= {"masked": lambda: _masked(routes, taken, x), "full": lambda: _masked(full, taken, x)}
    calls["chunked full"] = lambda: [
        _masked(full, taken[i : i + CHUNK], x[i : i + CHUNK]) for i in range(0, batch, CHUNK)
    ]
    times = {name: t.median for name, t in measure_all(calls, repeats=repeats).items()}
    static, chunked = (sum(times[f"{kind}{k}"] for k in taken.tolist()) / batch for kind in ("", "chunked "))
    counts = taken.bincount(minlength=4).tolist()
    return {"batch": batch, "routes": counts, "static": static, "chunked": chunked, **times}


def _in_chunks(module: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([module(part) for part in x.split(CHUNK)])


def _masked(routes: Routes, taken: Tensor, x: Tensor) -> Tensor:
    masked = Masked(routes)
    _, *values = masked.first(x)
    return masked(values, F.one_hot(taken, routes.choices).to(x))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"Seconds of a batch, medians, one CPU thread, torch {torch.__version__}.",
        "",
        "| batch | images on routes 0..3 | gated | static mean | static in chunks | gated / static | gated / in chunks | masked / gated | full / gated | full in chunks / gated |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        cells = [
            r["batch"],
            ", ".join(map(str, r["routes"])),
            *(f"{r[k]:.4f}" for k in ("gated", "static", "chunked")),
        ]
        cells += [f"{r['gated'] / r[k]:.2f}" for k in ("static", "chunked")]
        cells += [f"{r[k] / r['gated']:.2f}" for k in ("masked", "full", "chunked full")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--repeats", type=int, default=15, help="a fifth of them for batches above 32")
    where = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(batch, where.repeats if batch <= 32 else max(2, where.repeats // 5))
        for batch in where.batches
    ]
    publish(where.out, "gate_speed", table(rows), {"rows": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
