"""anywidth profile: what a network costs at which width, and what of it is elastic."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import typer
from torch import Tensor

from anywidth.cli import names
from anywidth.cli.console import print_table, si
from anywidth.cost.latency import measure_all, ratios
from anywidth.elastic import Elastic
from anywidth.errors import WidthError


def profile(
    model: str = typer.Argument(
        help="A class of anywidth.models, torchvision:NAME, timm:NAME, or a bare NAME."
    ),
    widths: str = typer.Option("0.25,0.5,0.75,1.0", help="Ratios, like 0.25,0.5,1.0."),
    shape: str = typer.Option(None, help="Image size, like 3x224x224.  [default: the network's own]"),
    batch: int = typer.Option(1, min=1, help="Images at once when measuring latency."),
    repeats: int = typer.Option(10, min=2, help="Timed runs of each width."),
    threads: int = typer.Option(1, min=1, help="CPU threads."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
) -> None:
    """Profile MODEL with fresh weights, downloading nothing: groups, cost, latency, what is frozen."""
    network = names.build_model(model, {}).eval()
    size = _parse_shape(shape) if shape else names.input_shape(network)
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    ratios_ = names.widths(widths)
    net = Elastic(network, x).eval()
    facts: dict[str, Any] = {
        "model": model,
        "input": list(size),
        "groups": [asdict(group) for group in net.space.groups],
        "frozen": [asdict(frozen) for frozen in net.space.frozen],
        "unknown": list(net.space.unknown),
        "widths": _costs(net, x, ratios_, batch=batch, repeats=repeats, threads=threads),
        "batch": batch,
        "threads": threads,
        "torch": torch.__version__,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print(net, facts)


def _parse_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", text):
        raise WidthError(f"shape {text!r}: expected sizes with an x between them, like 3x224x224")
    return tuple(map(int, text.split("x")))


def _costs(
    net: Elastic, x: Tensor, widths: Sequence[float | str], *, batch: int, repeats: int, threads: int
) -> list[dict[str, Any]]:
    """MACs, parameters, and seconds of the extracted network, per width."""
    images = x[:1].expand(batch, *x.shape[1:]).contiguous()
    small = {str(width): net.extract(width).eval() for width in widths}
    with torch.inference_mode():
        calls = {name: (lambda module=module: module(images)) for name, module in small.items()}
        latencies = measure_all(calls, repeats=repeats, threads=threads)
    slowest = max(latencies, key=lambda name: latencies[name].median)
    relative = ratios(latencies, baseline=slowest)
    return [
        {
            "width": width,
            "macs": int(net.macs(width)),
            "params": int(net.params(width)),
            "latency": latencies[str(width)].median,
            "latency_quartiles": [latencies[str(width)].low, latencies[str(width)].high],
            "latency_ratio": relative[str(width)],
        }
        for width in widths
    ]


def _print(net: Elastic, facts: dict[str, Any]) -> None:
    typer.echo(net.space)
    rows = facts["widths"]
    full = {"macs": net.macs(net.space.full), "params": net.params(net.space.full)}
    print_table(
        f"{facts['model']}: cost for one image of {'x'.join(map(str, facts['input']))}, latency of a batch "
        f"of {facts['batch']} on {facts['threads']} CPU threads (in brackets: as a part of the full width's; latency of the slowest)",
        [
            {
                "width": str(row["width"]),
                "MACs": f"{si(row['macs'])} ({row['macs'] / full['macs']:.3f})",
                "params": f"{si(row['params'])} ({row['params'] / full['params']:.3f})",
                "latency": f"{1e3 * row['latency']:.2f} ms ({row['latency_ratio']:.2f})",
            }
            for row in rows
        ],
    )
