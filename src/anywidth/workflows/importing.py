"""A checkpoint of another project as an elastic network."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anywidth import gating, interop
from anywidth.detect.costs import part_macs
from anywidth.detect.parts import is_detector
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.settings import configured, takes_fields_of


@dataclass(frozen=True, kw_only=True)
class ImportedNet:
    """An elastic network that was read from a checkpoint.

    Attributes:
        path: file that it was saved in.
        net: the network.
        rows: one per listed width: `width`, `macs`, `params`, and `statistics`: whether it has those of batch norms.
    """

    path: Path
    net: Elastic
    rows: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How a checkpoint is read.

    Attributes:
        widths: ratios of the widths in the file, in its order; by default as published.
        image_size: pixels of the square that costs are counted for; by default those of the data set.
        ema: dsnet: the moving average in the file, or not; by default where there is one.
        gate: dsnet: also write its slimming head, as NAME.gates.safetensors.
        sort: ordinary networks: bring important channels to the front.
    """

    widths: Sequence[float | str] | None = None
    image_size: int | None = None
    ema: bool | None = None
    gate: bool = False
    sort: bool = True


@takes_fields_of(ImportOptions)
def import_checkpoint(
    path: str | Path,
    options: ImportOptions | None = None,
    *,
    model: str,
    out: str | Path,
    source: str = "slimmable_networks",
    **settings: Any,
) -> ImportedNet:
    """Read a checkpoint and save it as an elastic network.

    Args:
        path: .pt, .pth or .safetensors.
        model: name there, like us_mobilenet_v1 or resnet50.
        out: file to write, NAME.safetensors.
        source: slimmable_networks, slimmable_networks-detection, network-slimming, joslim, dsnet, torchvision or timm.
        options: how it is read, of which `settings` may give some one by one.

    Returns:
        The network, and what its widths cost.

    Raises:
        CheckpointError: a damaged file, one of another network, or options of another source.
    """
    path, out, options = Path(path), Path(out), configured(ImportOptions, options, settings)
    if out.suffix != ".safetensors":
        raise CheckpointError(
            f"{out}: elastic networks are saved as NAME.safetensors; give a name with that ending."
        )
    if source != "dsnet" and (options.gate or options.ema is not None):
        raise CheckpointError(
            f"--gate, --ema and --no-ema are for the source dsnet; leave them out for {source!r}"
        )
    # Only the source dsnet takes the argument, so it is left out where nobody asked.
    ema: dict[str, Any] = {} if options.ema is None else {"ema": options.ema}
    listed: list[Any] | None = None if options.widths is None else list(options.widths)
    net = interop.load(path, source, model, listed, image_size=options.image_size, sort=options.sort, **ema)
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.gate:
        _write_gate(path, options.ema, net, out.with_suffix(".gates.safetensors"))
    net.save(out)
    rows = [
        {
            "width": label,
            "macs": _macs(net, label),
            "params": int(net.params(label)),
            "statistics": net.has_statistics(label),
        }
        for label in net.widths
    ]
    return ImportedNet(path=out, net=net, rows=rows)


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
