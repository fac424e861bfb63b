"""Gates as files: their weights as safetensors, and what they are of as JSON beside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.files import replacing, write_json
from anywidth.gating.gate import new_gates
from anywidth.gating.routes import Routes
from anywidth.graph.partition import Cut
from anywidth.space.width import Width

_FORMAT = "anywidth.gates/1"


def write_gates(path: Path, routes: Routes, gates: Sequence[nn.Module]) -> None:
    """Write PATH (safetensors) and the JSON beside it, each whole or not at all."""
    tensors = {
        f"{i}.{name}": t.detach().cpu().contiguous()
        for i, gate in enumerate(gates)
        for name, t in gate.state_dict().items()
    }
    metadata = {
        "format": _FORMAT,
        "gates": [{"at": cut.at, "feature": cut.feature} for cut in routes.gates],
        "widths": [width.to_json() for width in routes.widths],
        "labels": [str(label) for label in routes.labels],
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)
    write_json(path.with_suffix(".json"), metadata)


def read_gates(path: Path, net: Elastic) -> tuple[Routes, nn.ModuleList]:
    """Gates of a network, of its type and on its device, and its routes, whose labels are texts.

    Raises:
        CheckpointError: no such files, damaged, or gates of another network.
    """
    try:
        metadata = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as gates ({' '.join(str(error).split())}); train them with `anywidth gate RUN`"
        ) from error
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path.with_suffix('.json')}: is not of the format {_FORMAT!r}")
    try:
        cuts = [Cut(at=gate["at"], feature=gate["feature"]) for gate in metadata["gates"]]
        routes = Routes(net, cuts, [Width.from_json(width) for width in metadata["widths"]])
        channels = [tensors[f"{i}.weight"].shape[1] for i in range(len(cuts))]
        with torch.random.fork_rng(devices=[]):
            gates = new_gates(channels, routes.choices).to(tensors["0.weight"].dtype)
        gates.load_state_dict(tensors)
        labels = tuple(map(str, metadata["labels"]))
        if len(labels) != routes.choices:
            raise ValueError(f"{len(labels)} labels for {routes.choices} widths")
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: these gates do not fit this network: {' '.join(str(error).split())}"
        ) from error
    routes.labels = labels
    return routes, gates.to(next(net.parameters())).eval()
