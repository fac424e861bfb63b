"""Weights and optimiser state of a sharded training on disk: a directory beside the checkpoint, which names it.

    run/checkpoint.pt      progress, statistics, ...; {"progress": {"shards": "shards-12", ...}}
    run/shards-12/         written by all processes (torch.distributed.checkpoint), before checkpoint.pt names it
    run/shards-6/          removed after that; a kill at any moment leaves a checkpoint.pt whose directory is whole

Entries are "parameter/NAME" and "optimizer/NAME/KEY", so any number of processes can read what any other number wrote.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from anywidth.errors import CheckpointError
from anywidth.train import distributed
from anywidth.train.checkpoint import Parts

_PREFIX = "shards-"


def save_shards(run: Path, step: int, parts: Parts) -> str:
    """Write what is sharded to a directory of its own; every process calls this.

    Returns:
        The name of the directory.
    """
    folder = run / f"{_PREFIX}{step}"
    if distributed.rank() == 0 and folder.exists():
        shutil.rmtree(folder)  # left by a kill: what checkpoint.pt names is of an earlier step
    distributed.barrier()
    with _single_process() as no_dist:
        state_dict_saver.save(_tensors(parts), checkpoint_id=folder, no_dist=no_dist)
    return folder.name


def remove_other_shards(run: Path, name: str) -> None:
    """Remove the directories that the checkpoint in `run`, which names this one, does not need."""
    for folder in run.glob(f"{_PREFIX}*"):
        if folder.name != name:
            shutil.rmtree(folder)


def load_shards_(folder: Path, parts: Parts) -> None:
    """Restore what `save_shards` wrote, in this number of processes; every process calls this.

    Raises:
        CheckpointError: the directory is missing, damaged, or of another model.
    """
    try:
        stored = FileSystemReader(folder).read_metadata().state_dict_metadata
        _make_room_(parts, stored)
        with _single_process() as no_dist:
            state_dict_loader.load(_tensors(parts), checkpoint_id=folder, no_dist=no_dist)
    except (OSError, RuntimeError, ValueError, KeyError, CheckpointException) as error:
        raise CheckpointError(
            f"{folder}: the shares of weights and optimiser state cannot be read ({' '.join(str(error).split())[:500]}): damaged, or of "
            "another model; remove the run directory's checkpoint.pt to start again"
        ) from error


@contextmanager
def _single_process() -> Iterator[bool]:
    """Whether there is one process only, of which torch would warn."""
    single = distributed.world() == 1
    with warnings.catch_warnings():
        if single:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield single


def _tensors(training_state: Parts) -> dict[str, Tensor]:
    """Parameters and tensors of the optimiser, by name; not copies."""
    names = _names(training_state)
    tensors: dict[str, Tensor] = {f"parameter/{name}": p.detach() for p, name in names.items()}
    for p, state in training_state.optimizer.state.items():
        tensors |= {f"optimizer/{names[p]}/{key}": t for key, t in state.items() if isinstance(t, Tensor)}
    return tensors


def _names(training_state: Parts) -> dict[Tensor, str]:
    return {p: name for name, p in training_state.net.named_parameters()}


def _make_room_(training_state: Parts, stored: dict[str, Any]) -> None:
    """Give a new optimiser the tensors that `stored` has: those of parameters that never had a gradient have none."""
    # torch.distributed.checkpoint loads into tensors that exist, and a new optimiser has none before its first step.
    parameters = {name: p for p, name in _names(training_state).items()}
    for entry, metadata in stored.items():
        namespace, _, path = entry.partition("/")
        if namespace == "optimizer" and isinstance(metadata, TensorStorageMetadata):
            name, _, key = path.rpartition("/")
            p = parameters[name].detach()
            dtype = metadata.properties.dtype
            # What has the shape of its parameter is sharded like it; counts of steps lie on the CPU.
            alike = metadata.size == p.shape and key != "step"
            t = torch.zeros_like(p, dtype=dtype) if alike else torch.zeros(metadata.size, dtype=dtype)
            training_state.optimizer.state[parameters[name]][key] = t
