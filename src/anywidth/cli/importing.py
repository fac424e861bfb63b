"""anywidth import: a checkpoint of another project as an elastic network."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import typer

from anywidth import gating, interop
from anywidth.cli import names
from anywidth.cli.console import print_table, si
from anywidth.detect.costs import part_macs
from anywidth.detect.parts import is_detector
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError


def import_(
    path: Path = typer.Argument(metavar="CHECKPOINT", help=".pt, .pth or .safetensors."),
    source: str = typer.Option(
        "slimmable_networks",
        help="slimmable_networks, slimmable_networks-detection, network-slimming, joslim, dsnet, torchvision or timm.",
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
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"{out}: elastic networks are saved as NAME.safetensors; give a name with that ending."
        )
    listed: list[Any] | None = None if widths is None else names.widths(widths)
    if source != "dsnet" and (gate or ema is not None):
        raise CheckpointError(
            f"--gate, --ema and --no-ema are for the source dsnet; leave them out for {source!r}"
        )
    options: dict[str, Any] = {} if ema is None else {"ema": ema}
    net = interop.load(path, source, model, listed, image_size=image_size, sort=sort, **options)
    out.parent.mkdir(parents=True, exist_ok=True)
    if gate:
        _write_gate(path, ema, net, out.with_suffix(".gates.safetensors"))
    net.save(out)
    rows = [
        {
            "width": str(label),
            "MACs": si(_macs(net, label)),
            "params": si(net.params(label)),
            "batch-norm statistics": "yes" if net.has_statistics(label) else "calibrate first",
        }
        for label in net.widths
    ]
    print_table(f"{out}", rows)


def _macs(net: Elastic, label: Hashable) -> int:
    if is_detector(net.model):  # how many regions are seen is no property of the network
        return part_macs(net, label)["total"]
    return int(net.macs(label))


def _write_gate(path: Path, ema: bool | None, net: Elastic, out: Path) -> None:
    head = interop.dsnet.head(path, ema=ema)
    unknown = [k for k in range(len(head)) if k not in net.widths]
    if unknown:
        raise CheckpointError(
            f"--gate: the head in {path} chooses between labels 0 to {len(head) - 1}, and label {unknown[0]} is not listed; leave out "
            "--gate, or --widths"
        )
    at = interop.dsnet.GATED
    routes = gating.Routes(net, [gating.Cut(at=at, feature=f"{at}.squeeze")], range(len(head)))
    gating.write_gates(out, routes, [gating.gate_of(head)])
