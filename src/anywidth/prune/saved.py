"""A pruned network as files: `pruned.json` says how the wide one was cut, `net.safetensors` holds the compact weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anywidth.channel_select import select_first_
from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, WidthError
from anywidth.files import replacing, write_json
from anywidth.prune.compact import fold_
from anywidth.prune.masked import owner
from anywidth.space.width import Width

ABOUT, WEIGHTS = "pruned.json", "net.safetensors"
FORMAT = 1
_KEYS = {
    "steps": list,
    "model": str,
    "kwargs": dict,
    "input": list,
    "macs": int,
    "params": int,
    "macs_of_the_first": int,
    "params_of_the_first": int,
}


def cut_(
    net: Elastic, width: Width, *, freeze: Sequence[str] = (), fold: bool = True, batches: Any = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The compact network, and the step that makes one of this form again (see `rebuilt`)."""
    of, width = owner(net, width)
    small = of.extract(width)
    biased = fold_(of, width, small, batches) if fold else []
    select_first_(small)
    step = {
        "streams": "coupled" if of is net else "selection",
        "freeze": list(freeze),
        "width": width.to_json(),
        "biased": biased,
    }
    return small, step


def again(wide: nn.Module, example: Any, steps: Sequence[Mapping[str, Any]]) -> nn.Module:
    """A network cut by the same steps, its weights those parts of `wide` that stay.

    Raises:
        CheckpointError: the steps are of another network.
    """
    # Iterated pruning cuts the network of the step before, so the steps are made again one after the other; every one
    # starts from a traced network, as channel groups of the cut network may differ from those of the wide one.
    model = wide
    for step in steps:
        try:
            net = Elastic(model, example, freeze=step["freeze"])
            of = net if step["streams"] == "coupled" else net.selection(freeze=step["freeze"])
            width = Width.from_json(step["width"])
            small = of.extract(width)
            for path in step["biased"]:
                layer: Any = small.get_submodule(path)
                outputs = layer.channels if hasattr(layer, "channels") else layer.weight.shape[0]
                layer.bias = nn.Parameter(torch.zeros(outputs, dtype=next(small.parameters()).dtype))
        except (WidthError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"the pruning is of another network: {error}") from error
        select_first_(small)
        model = small
    return model


def write(folder: Path, small: nn.Module, about: Mapping[str, Any]) -> None:
    """Write a pruned network.

    Args:
        folder: made if it is not there.
        small: the network.
        about: its `steps`, from the network of the recipe to this one, and the other keys that `read` asks for.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The description is removed first and written last: after a crash in between the folder has none, and is refused.
    (folder / ABOUT).unlink(missing_ok=True)
    state = {n: t.detach().cpu().contiguous().clone() for n, t in small.state_dict().items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    write_json(folder / ABOUT, {"format": FORMAT, **about})


def read(folder: str | Path) -> dict[str, Any]:
    """What `write` said about a pruned network.

    Raises:
        CheckpointError: none is there, or it is damaged.
    """
    path = Path(folder) / ABOUT
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; `anywidth prune RUN` writes it") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); prune again") from error
    if (
        not isinstance(description, dict)
        or description.get("format") != FORMAT
        or any(not isinstance(description.get(key), expected_type) for key, expected_type in _KEYS.items())
    ):
        raise CheckpointError(f"{path}: describes no pruned network of format {FORMAT}; prune again")
    return description


def weights(folder: str | Path) -> dict[str, Tensor]:
    """The compact weights.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    path = Path(folder) / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); prune again") from error


def rebuilt(folder: str | Path, wide: nn.Module, example: Any, *, fresh: bool = False) -> nn.Module:
    """The pruned network of a folder.

    Args:
        folder: of `write`.
        wide: the network that the first step cut, with any weights.
        example: inputs on which it runs.
        fresh: keep the parts of the weights of `wide`, for training from scratch.

    Raises:
        CheckpointError: missing, damaged, or of another network.
    """
    small = again(wide, example, read(folder)["steps"])
    if not fresh:
        try:
            small.load_state_dict(weights(folder))
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:3]]
            raise CheckpointError(f"{Path(folder) / WEIGHTS}: does not fit: {' '.join(lines)}") from error
    return small
