"""Saving elastic networks.

Three files: `NAME.safetensors` holds the weights under the base model's own key names, so any torchvision or timm user
can load them without this package; `NAME.norms.safetensors` the batch-norm state of narrow widths; `NAME.json` the channel
space, the listed widths and an identifier that ties the three together. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anywidth.errors import CheckpointError
from anywidth.files import replacing
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width

FORMAT = 1


def files_beside(path: Path) -> tuple[Path, Path]:
    """The files of norms and of the description that belong to one of weights."""
    stem = path.name.removesuffix(".safetensors")
    return path.with_name(f"{stem}.norms.safetensors"), path.with_name(f"{stem}.json")


class Saveable(Protocol):
    """What of an elastic network is written."""

    model: nn.Module
    norms: Any
    widths: dict[Hashable, Width]
    space: ChannelSpace

    def norm_state(self) -> dict[str, Tensor]: ...


def save(net: Saveable, path: str | Path) -> None:
    """Write an elastic network. Each file appears whole or not at all; a set cut short by a crash is refused by `load`.

    Raises:
        CheckpointError: the name does not end in .safetensors.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: elastic networks are saved as NAME.safetensors; give a name with that ending."
        )
    if not path.parent.is_dir():
        raise CheckpointError(f"{path}: the folder {path.parent} does not exist; make it first.")
    for label in net.widths:
        if not isinstance(label, str | int | float | Width):
            raise CheckpointError(
                f"{path}: the label {label!r} of a width cannot be saved: use a string or a number."
            )
    norms, description = files_beside(path)
    tag = uuid.uuid4().hex
    affine = {f"affine/{n}": p for n, p in net.norms.affine.items()}
    widths = [
        {"label": None if isinstance(label, Width) else label, "width": w.to_json()}
        for label, w in net.widths.items()
    ]
    header = {
        "format": FORMAT,
        "id": tag,
        "model": type(net.model).__name__,
        "norm": net.norms.policy,
        "constant": net.norms.constant,
        "widths": widths,
    }
    text = json.dumps({**header, "space": json.loads(net.space.to_json())}) + "\n"
    with replacing(path) as weights, replacing(norms) as state, replacing(description) as json_file:
        # All three temporary files are complete before the first gets its name. A crash between two renames leaves files with
        # different tags, which `load` refuses.
        _write(weights, net.model.state_dict(), tag)
        _write(state, {**net.norm_state(), **affine}, tag)
        json_file.write_text(text, encoding="utf-8")


def _write(path: Path, tensors: Mapping[str, Tensor], tag: str) -> None:
    # safetensors refuses tensors that share memory (tied weights, slices): each is cloned.
    owned = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    save_file(owned, path, metadata={"format": "pt", "anywidth": tag})
