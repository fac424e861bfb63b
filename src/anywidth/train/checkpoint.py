"""The state from which an interrupted training goes on."""

from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.files import replacing

_FORMAT = "anywidth.train/1"


def save(path: Path, net: Elastic, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write weights, statistics of every width, optimiser and `progress` to `path`, whole or not at all.

    Args:
        path: file to write.
        net: its weights and norms are saved.
        optimizer: its state is saved.
        progress: plain numbers, strings, lists and dictionaries.
    """
    state = {
        "format": _FORMAT,
        "net": net.state_dict(),
        "norms": net.norm_state(),
        "optimizer": optimizer.state_dict(),
        "progress": progress,
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_(path: Path, net: Elastic, optimizer: Optimizer, *, expected: dict[str, Any]) -> dict[str, Any]:
    """Restore what `save` wrote; nothing is unpickled but tensors and plain values.

    Args:
        path: file to read.
        net: an elastic network of the same model, changed in place.
        optimizer: over the parameters of `net`, changed in place.
        expected: entries of the saved progress that must be equal, for the training to be the same one.

    Returns:
        The saved progress.

    Raises:
        CheckpointError: if the file is damaged, foreign, or of another training.
    """
    state = _read(path)
    _compare(path, state["progress"], expected)
    try:
        net.load_state_dict(state["net"])
        net.load_norm_state_(state["norms"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: the saved state does not fit this model: {' '.join(str(error).split())}; "
            "train in another directory, or remove the file to start again"
        ) from error
    return state["progress"]


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many types for a damaged file
        raise CheckpointError(
            f"{path}: cannot be read as a training checkpoint ({type(error).__name__}): damaged, or not "
            "written by anywidth; remove it to start the training again"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: not a training checkpoint of the format {_FORMAT!r}; remove it to start again"
        )
    return state


def _compare(path: Path, saved: dict[str, Any], expected: dict[str, Any]) -> None:
    for key, value in expected.items():
        if saved.get(key) != value:
            raise CheckpointError(
                f"{path}: was written by a training with {key}={saved.get(key)!r}, now {key}={value!r}; "
                "use the same settings to go on, or another directory"
            )
