"""anywidth import: a checkpoint of another project as an elastic network."""

from pathlib import Path

import typer

from anywidth import workflows
from anywidth.cli.console import print_table
from anywidth.workflows.naming import parse_widths
from anywidth.workflows.tables import si


def import_command(
    path: Path = typer.Argument(metavar="CHECKPOINT", help=".pt, .pth or .safetensors."),
    source: str = typer.Option(
        "slimmable_networks",
        help="slimmable_networks, slimmable_networks-detection, network-slimming, joslim, dsnet, torchvision, timm, or your own: package.module:NAME.",
    ),
    model: str = typer.Option(..., help="Name there, like us_mobilenet_v1 or resnet50."),
    out: Path = typer.Option(..., help="File to write, NAME.safetensors."),
    widths: str = typer.Option(
        None, help="Ratios of the widths in the file, in its order.  [default: as published]"
    ),
    image_size: int = typer.Option(
        None, min=1, help="Pixels of the square that costs are counted for.  [default: of the data set]"
    ),
    ema: bool = typer.Option(
        None,
        "--ema/--no-ema",
        help="dsnet: the moving average in the file, or not.  [default: where there is one]",
    ),
    gate: bool = typer.Option(
        False, "--gate", help="dsnet: also write its slimming head, as NAME.gates.safetensors."
    ),
    sort: bool = typer.Option(True, help="Ordinary networks: bring important channels to the front."),
) -> None:
    """Read CHECKPOINT and save it as an elastic network."""
    imported = workflows.import_checkpoint(
        path,
        model=model,
        out=out,
        source=source,
        widths=None if widths is None else parse_widths(widths),
        image_size=image_size,
        ema=ema,
        gate=gate,
        sort=sort,
    )
    rows = [
        {
            "width": str(row["width"]),
            "MACs": si(row["macs"]),
            "params": si(row["params"]),
            "batch-norm statistics": "yes" if row["statistics"] else "calibrate first",
        }
        for row in imported.rows
    ]
    print_table(f"{imported.path}", rows)
