"""Loading elastic networks that `net.save` wrote; `anywidth.saving` says what the files hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.saving import FORMAT, files_beside
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width


def load(path: str | Path, model: nn.Module) -> Elastic:
    """Read an elastic network into `model`, an ordinary wide model of the saved architecture (its weights are replaced).

    Raises:
        CheckpointError: files missing, truncated, of another save, or of another model; `model` is untouched then.
    """
    # Everything is read and checked before the model is touched.
    path = Path(path)
    norms, description = files_beside(path)
    header = _description(path, description)
    weights = _read(path, header["id"])
    state = _read(norms, header["id"])
    _match(path, weights, model)
    net = _described(description, header, model)
    missing = [n for n in [*net.norm_state(), *(f"affine/{k}" for k in net.norms.affine)] if n not in state]
    if missing:
        raise CheckpointError(
            f"{norms}: no state for {missing[0]} ({len(missing)} tensors missing); the file was altered."
        )
    model.load_state_dict(weights)
    net.load_norm_state_(state)
    net.norms.affine.load_state_dict({k: state[f"affine/{k}"] for k in net.norms.affine})
    if header.get("constant", False):
        net.norms.freeze_()
    return net


def _described(description: Path, header: Mapping[str, Any], model: nn.Module) -> Elastic:
    """`model` made elastic as the header says."""
    try:
        space = ChannelSpace.from_json(json.dumps(header["space"]))
        net = Elastic(model, norm=header["norm"], widths={}, space=space)
        for entry in header["widths"]:
            width = space.check(Width.from_json(entry["width"]))
            net.list_width_(width if entry["label"] is None else entry["label"], width)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{description}: not a description of an elastic network ({error}).") from error
    return net


def _description(path: Path, description: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file.")
    if not description.exists():
        raise CheckpointError(
            f"{path}: no {description.name} beside it, so these are ordinary weights, not a saved elastic network. "
            "Load them into the model and make it elastic: aw.Elastic(model, example_inputs)."
        )
    try:
        header = json.loads(description.read_text(encoding="utf-8"))
        version, _ = header["format"], header["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{description}: not a description of an elastic network ({error}).") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{description}: format {version} is not known to this version (it reads {FORMAT}); update anywidth."
        )
    return header


def _read(path: Path, tag: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            saved_tag = (file.metadata() or {}).get("anywidth")
            tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; a saved network is three files, copy them together."
        ) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: truncated or not a safetensors file ({error}); restore it from a copy."
        ) from error
    if saved_tag != tag:
        raise CheckpointError(
            f"{path}: belongs to another save than its description (id {saved_tag}, expected {tag}); restore all three files from one save."
        )
    return tensors


def _match(path: Path, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    expected = model.state_dict()
    missing, extra = [n for n in expected if n not in weights], [n for n in weights if n not in expected]
    shapes = [
        f"{n}: {tuple(weights[n].shape)} in the file, {tuple(expected[n].shape)} in the model"
        for n in expected
        if n in weights and expected[n].shape != weights[n].shape
    ]
    problems = [
        f"{len(names)} {problem}, e.g. {names[0]}"
        for problem, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(problems)}. Give the model that was saved."
        )
