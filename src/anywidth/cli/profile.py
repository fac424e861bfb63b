"""anywidth profile: what a network costs at which width, and what of it is elastic."""

import json
import re
from collections.abc import Sequence
from typing import Any

import torch
import typer
from torch import Tensor

from anywidth.cli import names
from anywidth.cli.console import print_table, si
from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.latency import measure_all, ratios


def profile(
    model: str = typer.Argument(
        help="A class of anywidth.models, torchvision:NAME, timm:NAME, or a bare NAME."
    ),
    widths: str = typer.Option("0.25,0.5,0.75,1.0", help="Ratios, like 0.25,0.5,1.0."),
    shape: str = typer.Option(None, help="Image size, like 3x224x224.  [default: the network's own]"),
    batch: int = typer.Option(1, min=1, help="Images at once when measuring latency."),
    repeats: int = typer.Option(10, min=2, help="Timed runs of each width."),
    threads: int = typer.Option(None, min=1, help="CPU threads.  [default: torch's own choice]"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of tables."),
) -> None:
    """Profile MODEL with fresh weights, downloading nothing: groups, cost, latency, what is frozen."""
    network = names.build_model(model, {}).eval()
    size = _parse_shape(shape) if shape else names.input_shape(network)
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    ratios_ = names.widths(widths)
    net = Elastic(network, x).eval()
    facts: dict[str, Any] = {
        "model": model,
        "input": list(size),
        "groups": [{"name": group.name, "size": group.size} for group in net.space.groups],
        "frozen": _frozen(net),
        "widths": _costs(net, x, ratios_, batch=batch, repeats=repeats, threads=threads),
        "batch": batch,
        "threads": threads or torch.get_num_threads(),
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


def _frozen(net: Elastic) -> list[dict[str, str]]:
    return [{"what": str(what), "why": str(why)} for what, why in dict(net.space.frozen).items()]


def _costs(
    net: Elastic, x: Tensor, widths: Sequence[float | str], *, batch: int, repeats: int, threads: int | None
) -> list[dict[str, Any]]:
    """MACs, parameters, and seconds of the extracted network, per width."""
    net.calibrate([(x,)], widths=list(widths), batches=1)  # any statistics do: only the time is wanted
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
    print_table(
        f"{facts['model']}: channel groups",
        [{"group": group["name"], "channels": str(group["size"])} for group in facts["groups"]],
    )
    if facts["frozen"]:
        print_table("frozen", [{"what": row["what"], "why": row["why"]} for row in facts["frozen"]])
    rows = facts["widths"]
    most = {key: max(row[key] for row in rows) for key in ("macs", "params")}
    print_table(
        f"{facts['model']}: cost for one image of {'x'.join(map(str, facts['input']))}; "
        f"latency of a batch of {facts['batch']} on {facts['threads']} CPU threads",
        [
            {
                "width": str(row["width"]),
                "MACs": si(row["macs"]),
                "MACs ratio": f"{row['macs'] / most['macs']:.3f}",
                "params": si(row["params"]),
                "params ratio": f"{row['params'] / most['params']:.3f}",
                "latency": f"{1e3 * row['latency']:.2f} ms",
                "latency ratio": f"{row['latency_ratio']:.2f}",
            }
            for row in rows
        ],
    )
