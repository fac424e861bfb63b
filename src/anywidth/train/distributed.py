"""Several processes as one: who this process is, and what it exchanges with the others."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Number of this process, 0 where there is one process only."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the processes that `torchrun` started; nothing happens in a process that was started alone.

    Args:
        device: nccl for cuda devices, gloo for others.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":  # before anything is sent: objects travel through the current device
        torch.cuda.set_device(local_device(device))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        # A reducer that waits for the garbage collector would keep threads of the group alive into the interpreter's exit,
        # where they abort the process now and then ("terminate called without an active exception").
        gc.collect()
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process: the GPU with its local rank."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean over processes."""
    if world() > 1:
        # all_reduce works in place, and the value is the caller's.
        value = value.clone()
        dist.all_reduce(value)
        value /= world()
    return value


def total(value: Tensor) -> Tensor:
    """The sum over processes."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def gathered(value: Any) -> list[Any]:
    """The plain values of all processes, in the order of their ranks."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` gives in process 0, in every process; its failure is raised in every process."""
    if world() == 1:
        return make()
    # (value, None) or (None, error). If process 0 raised at once, the others would wait for its broadcast forever.
    outcome: list[Any] = [None]
    if rank() == 0:
        try:
            outcome = [(make(), None)]
        except Exception as error:
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, 0)
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Give every process the tensors of process 0."""
    if world() > 1:
        for t in tensors:
            dist.broadcast(t.detach(), 0)


def barrier() -> None:
    """Wait for the other processes."""
    if world() > 1:
        dist.barrier()
