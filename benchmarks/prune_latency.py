"""What pruned channels save in time: share of the latency against share of the multiply-adds.

    python benchmarks/prune_latency.py                          # ResNet-50 and MobileNet v2, into docs/
    python benchmarks/prune_latency.py --quick --out FOLDER     # a smoke run

Fresh weights, with scales of batch norms drawn from uniform(0.1, 1.5), so that their ranking means something. All channels
compete (criterion bn_scale); what stays is rounded up to multiples of 1, 8 or 16 channels. Streams are coupled: a channel of
a residual stream goes from all layers that share it, by the mean of their scales. At one ratio also with streams that stay
and norms that select from them (DenseNet-121 too: in the other two no norm reads a stream, so streams just stay). The original
and all pruned networks of a model take turns.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import anywidth as aw
from anywidth import prune
from anywidth.cost.latency import Latency, measure_all
from prune import count_macs
from results import publish

SELECTION = 0.5  # the ratio at which streams stay or go


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = torchvision.models.get_model(name, weights=None).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, _BatchNorm):
                m.weight.uniform_(0.1, 1.5, generator=draw)
    return model


def pruned(
    net: aw.Elastic, where: argparse.Namespace, sweep: bool
) -> dict[tuple[str, int, float], nn.Module]:
    """(streams, round_to, ratio) -> compact network."""
    made: dict[tuple[str, int, float], nn.Module] = {}
    for round_to in where.round_to if sweep else ():
        for ratio in where.ratios:
            made["coupled", round_to, ratio] = net.extract(prune.plan(net, ratio, round_to=round_to))
    for streams in ("coupled", "selection"):
        width = prune.plan(net, SELECTION, streams=streams)
        made.setdefault((streams, 1, SELECTION), prune.compact(net, width))
    return made


def rows_of(name: str, where: argparse.Namespace) -> list[dict[str, Any]]:
    model = network(name, where.seed)
    example = torch.randn(1, 3, where.size, where.size)
    net = aw.Elastic(model, example)
    nets = pruned(net, where, sweep=name in where.models)
    calls: dict[Any, Any] = {"original": lambda: model(example)}
    calls |= {key: (lambda m=m: m(example)) for key, m in nets.items()}
    with torch.inference_mode():
        times = measure_all(calls, warmup=3, repeats=where.repeats, threads=where.threads)
    full, macs = times["original"], count_macs(model, example)
    params = sum(p.numel() for p in model.parameters())
    rows = [row(name, ("coupled", 1, 0.0), 1.0, 1.0, full, full)]
    for key, m in nets.items():
        share = sum(p.numel() for p in m.parameters()) / params
        rows.append(row(name, key, count_macs(m, example) / macs, share, times[key], full))
    return rows


def row(
    name: str, key: tuple[str, int, float], macs: float, params: float, own: Latency, full: Latency
) -> dict[str, Any]:
    streams, round_to, ratio = key
    found = {
        "model": name,
        "streams": streams,
        "round_to": round_to,
        "ratio": ratio,
        "macs": macs,
        "params": params,
    }
    shares = {part: getattr(own, part) / full.median for part in ("median", "low", "high")}
    print(found, shares, flush=True)
    return {**found, **shares, "seconds": asdict(own)}


def table(rows: list[dict[str, Any]], where: argparse.Namespace) -> str:
    lines = [
        f"Batch 1, {where.size} x {where.size} pixels, {where.threads} thread(s), {where.repeats} turns, scales from seed "
        f"{where.seed}, torch {torch.__version__}, torchvision {torchvision.__version__}, CPU. Shares of the original; latency as median and quartiles.",
        "",
        "| model | streams | rounded to | channels pruned | MACs | parameters | latency | quartiles |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        what = r["streams"] if r["ratio"] else f"the original, {1e3 * r['seconds']['median']:.1f} ms"
        lines.append(
            f"| {r['model']} | {what} | {r['round_to'] if r['ratio'] else '-'} | {r['ratio']:.0%} | {r['macs']:.1%} "
            f"| {r['params']:.1%} | {r['median']:.2f} | {r['low']:.2f} to {r['high']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], where: argparse.Namespace, path: Path) -> None:
    """Latency against multiply-adds, a panel for each model, a line for each rounding."""
    from matplotlib.figure import Figure

    count = len(where.models)
    figure = Figure(figsize=(4.6 * count, 4.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)
    for panel, name in zip(panels[0], where.models, strict=True):
        panel.plot(
            [0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="latency share = MACs share"
        )
        mine = [r for r in rows if r["model"] == name]
        for round_to, mark in zip(where.round_to, ("o", "s", "^", "v"), strict=False):
            line = [
                r for r in mine if r["streams"] == "coupled" and (r["round_to"] == round_to or not r["ratio"])
            ]
            plot(panel, line, f"{mark}-", "not rounded" if round_to == 1 else f"rounded to {round_to}")
        plot(panel, [r for r in mine if r["streams"] == "selection"], "D", "streams stay, 50 % pruned")
        panel.set(title=name, xlabel="share of the multiply-adds", xlim=(0, 1.05), ylim=(0, 1.2))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("share of the latency")
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path)


def plot(panel: Any, rows: list[dict[str, Any]], style: str, label: str) -> None:
    below = [r["median"] - r["low"] for r in rows]
    above = [r["high"] - r["median"] for r in rows]
    panel.errorbar(
        [r["macs"] for r in rows], [r["median"] for r in rows], yerr=[below, above], fmt=style,
        label=label, capsize=2, markersize=4, linewidth=1.2,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--models", nargs="+", default=["resnet50", "mobilenet_v2"])
    parser.add_argument(
        "--selecting", nargs="*", default=["densenet121"], help="only coupled against selection"
    )
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.05, 0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--round-to", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    where = parser.parse_args()
    if where.quick:
        where.models, where.selecting, where.size, where.repeats = ["mobilenet_v2"], [], 64, 2
    rows = [r for name in [*where.models, *where.selecting] for r in rows_of(name, where)]
    settings = {key: value for key, value in vars(where).items() if key != "out"}
    numbers = {"settings": settings, "torch": torch.__version__, "rows": rows}
    publish(where.out, "prune_latency", table(rows, where), numbers)
    draw(rows, where, where.out / "results" / "prune_latency.png")
    print(table(rows, where))


if __name__ == "__main__":
    main()
