"""anywidth profile: what a network costs at which width, and what of it is elastic."""

import json

import typer

from anywidth import workflows
from anywidth.cli.console import print_table
from anywidth.workflows.naming import parse_shape, parse_widths
from anywidth.workflows.tables import si


def profile_command(
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
    profiled = workflows.profile(
        model,
        parse_widths(widths),
        shape=parse_shape(shape) if shape else None,
        batch=batch,
        repeats=repeats,
        threads=threads,
    )
    if as_json:
        typer.echo(json.dumps(profiled.facts, indent=2))
    else:
        typer.echo(profiled.net.space)
        _print_costs(profiled)


def _print_costs(profiled: workflows.Profile) -> None:
    net, facts = profiled.net, profiled.facts
    macs, params = net.macs(net.space.full), net.params(net.space.full)
    print_table(
        f"{facts['model']}: cost for one image of {'x'.join(map(str, facts['input']))}, latency of a batch "
        f"of {facts['batch']} on {facts['threads']} CPU threads (in brackets: as a part of the full width's; latency of the slowest)",
        [
            {
                "width": str(row["width"]),
                "MACs": f"{si(row['macs'])} ({row['macs'] / max(macs, 1):.3f})",
                "params": f"{si(row['params'])} ({row['params'] / params:.3f})",
                "latency": f"{1e3 * row['latency']:.2f} ms ({row['latency_ratio']:.2f})",
            }
            for row in facts["widths"]
        ],
    )
