"""The state from which an interrupted training goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.files import replacing
from anywidth.train.ema import Ema

_FORMAT = "anywidth.train/2"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that training changes: the network, the optimiser, the loss scale, the moving average.

    With `sharding`, parameters and the optimiser's tensors are no part of `state`: `anywidth.train.shard_files` keeps them.
    """

    net: Elastic
    optimizer: Optimizer
    scaler: torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    ema: Ema | None = None
    sharding: bool = False

    def _elsewhere(self) -> set[str]:
        """Names of the state dict that `shard_files` keeps."""
        # Tied parameters have several names in the state dict.
        return {n for n, _ in self.net.named_parameters(remove_duplicate=False)} if self.sharding else set()

    def state(self) -> dict[str, Any]:
        elsewhere = self._elsewhere()
        return {
            "net": {n: t for n, t in self.net.state_dict().items() if n not in elsewhere},
            "optimizer": {} if self.sharding else self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": {} if self.ema is None else self.ema.net.state_dict(),
        }

    def load_(self, state: dict[str, Any]) -> None:
        # A sharded checkpoint lacks the parameters on purpose: then what is missing is compared with what is elsewhere.
        keys = self.net.load_state_dict(state["net"], strict=not self.sharding)
        if wrong := {*keys.missing_keys, *keys.unexpected_keys} - self._elsewhere():
            raise KeyError(f"{min(wrong)} is missing or unknown")
        if not self.sharding:
            self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.net.load_state_dict(state["ema"])


def save_checkpoint(path: Path, parts: Parts, progress: dict[str, Any]) -> None:
    """Write weights, statistics of every width, optimiser and `progress` to `path`, whole or not at all.

    Args:
        path: file to write.
        parts: what is saved.
        progress: plain numbers, strings, lists and dictionaries.
    """
    with replacing(path) as temporary:
        torch.save({"format": _FORMAT, **parts.state(), "progress": progress}, temporary)


def load_(path: Path, state: dict[str, Any], parts: Parts, *, expected: dict[str, Any]) -> dict[str, Any]:
    """Restore what `read` gave.

    Args:
        path: where it came from, for messages.
        state: from `read`.
        parts: of the same model, changed in place.
        expected: entries of the saved progress that must be equal, for the training to be the same one.

    Returns:
        The saved progress.

    Raises:
        CheckpointError: if the file is of another training.
    """
    _compare(path, state["progress"], expected)
    try:
        parts.load_(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: the saved state does not fit this model: {' '.join(str(error).split())}; "
            "train in another directory, or remove the file to start again"
        ) from error
    return state["progress"]


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; nothing is unpickled but tensors and plain values.

    Raises:
        CheckpointError: if the file is damaged or foreign.
        OSError: if it cannot be opened.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file, OSError for some that were cut
        if isinstance(error, OSError) and error.filename:
            raise
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
