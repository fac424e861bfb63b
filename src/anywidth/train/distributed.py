"""Several processes as one: who this process is, and the one reduction of gradients per step.

Every process runs the same widths on its share of the batch. Gradients of the wide network are averaged once per
step; those that are complete while the last width is still in its backward pass travel meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET_BYTES = 25 * 2**20


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
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process: the GPU with its local rank."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def mean(value: Tensor) -> Tensor:
    """The mean over processes."""
    if world() > 1:
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
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` gives in process 0, in every process; its failure is raised in every process."""
    if world() == 1:
        return make()
    found: list[Any] = [None]
    if rank() == 0:
        try:
            found = [(make(), None)]
        except Exception as error:
            found = [(None, error)]
    dist.broadcast_object_list(found, 0)
    value, error = found[0]
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


class Reducer:
    """Averages the gradients of parameters over processes, in buckets, each as soon as it is complete.

    Args:
        parameters: the same in every process, in the same order.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.buckets = _buckets([p for p in parameters if p.requires_grad])
        self.home = {id(p): i for i, bucket in enumerate(self.buckets) for p in bucket}
        self.hooks: list[Any] = []
        self._restart()

    def _restart(self) -> None:
        self.missing = [0] * len(self.buckets)
        self.flying: list[tuple[Sequence[nn.Parameter], Tensor, dist.Work]] = []

    def watch_(self, leaves: dict[str, nn.Parameter], wide: dict[str, nn.Parameter]) -> None:
        """Before the last backward pass of a step: buckets leave when their last gradient has arrived.

        Args:
            leaves: parameters of the last view.
            wide: the wide network's, by the same names; a leaf that is not a part of one stands for itself.
        """
        if world() == 1:
            return
        for name, leaf in leaves.items():
            owner = leaf if id(leaf) in self.home else wide.get(name, leaf)
            home = self.home.get(id(owner))
            if home is not None and leaf.requires_grad:
                self.missing[home] += 1
                # After the view's own hook, which adds the gradient to the wide parameter's: hooks run in order.
                self.hooks.append(
                    leaf.register_post_accumulate_grad_hook(lambda _, home=home: self._arrived(home))
                )

    def _arrived(self, home: int) -> None:
        self.missing[home] -= 1
        self._launch(stop_at_missing=True)

    def _launch(self, *, stop_at_missing: bool) -> None:
        """Send buckets in their order, the same in every process."""
        while len(self.flying) < len(self.buckets):
            index = len(self.flying)
            if stop_at_missing and self.missing[index] > 0:
                return
            bucket = self.buckets[index]
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).ravel() for p in bucket])
            work = dist.all_reduce(flat, async_op=True)
            assert work is not None
            self.flying.append((bucket, flat, work))

    def finish_(self) -> None:
        """After the last backward pass: every gradient is the mean over processes."""
        if world() == 1:
            return
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self._launch(stop_at_missing=False)
        for bucket, flat, work in self.flying:
            work.wait()
            flat /= world()
            for p, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                if p.grad is not None:  # a parameter that no width used stays without a gradient
                    p.grad.copy_(part.view_as(p))
        self._restart()


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters from the last to the first, as gradients arrive, in buckets of one dtype and device."""
    buckets: list[list[nn.Parameter]] = []
    size = 0
    for p in reversed(parameters):
        kind = (p.dtype, p.device)
        full = size + p.numel() * p.element_size() > _BUCKET_BYTES
        if not buckets or full or (buckets[-1][0].dtype, buckets[-1][0].device) != kind:
            buckets.append([])
            size = 0
        buckets[-1].append(p)
        size += p.numel() * p.element_size()
    return buckets
