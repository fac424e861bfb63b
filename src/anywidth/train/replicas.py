"""Gradients of a step as means over processes that each hold the whole network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from anywidth.elastic import Elastic

# The engine has made all processes equal; later each keeps its own buffers. Newer versions of torch have another name for that.
_KNOWN = inspect.signature(DistributedDataParallel).parameters
_OPTIONS: dict[str, Any] = {
    "init_sync": False,
    "find_unused_parameters": True,
    "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers": False,
}


class Synchronisation(Protocol):
    """What makes the gradients of a step means over processes."""

    def run(self, forward: Callable[[], Any]) -> Any:
        """The result of a forward pass; it holds every tensor that the backward pass starts from."""
        ...

    def synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Around the forward and the backward pass of a width; in the `last` of a step gradients become means."""
        ...

    def finish_(self) -> None:
        """After the last backward pass of a step."""
        ...


class OneProcess:
    """The gradients of a process that trains alone are the means."""

    def run(self, forward: Callable[[], Any]) -> Any:
        return forward()

    @contextmanager
    def synchronised(self, last: bool) -> Iterator[None]:
        yield

    def finish_(self) -> None:
        """Nothing is left to do."""


class Replicas:
    """`DistributedDataParallel` around the passes of a step: it averages gradients in the backward pass of the last one.

    Args:
        net: equal in all processes.
    """

    def __init__(self, net: Elastic) -> None:
        self._passes = DistributedDataParallel(_Passes(net), **_OPTIONS)
        self._synchronised = False

    def run(self, forward: Callable[[], Any]) -> Any:
        return self._passes(forward)

    @contextmanager
    def synchronised(self, last: bool) -> Iterator[None]:
        # `no_sync` has to cover the forward pass too: DDP decides there whether the backward pass will reduce.
        if not last:
            with self._passes.no_sync():
                yield
            return
        yield
        self._synchronised = True

    def finish_(self) -> None:
        """
        Raises:
            RuntimeError: no pass of the step was synchronised, so the processes' gradients differ.
        """
        if not self._synchronised:
            raise RuntimeError(unsynchronised())
        self._synchronised = False


def unsynchronised() -> str:
    """The message about a task that leaves out what its `how` gives it."""
    return (
        "training in several processes: no pass of this step averaged its gradients. A task runs each width inside "
        "how.synchronised(last), with last=True for the last one, and its forward pass by how.run(lambda: view(...))"
    )


class _Passes(nn.Module):
    """Runs what it is called with, so that a wrapper sees the parameters of `net` and the outputs of any forward."""

    def __init__(self, net: Elastic) -> None:
        super().__init__()
        self.net = net
        like = next(p for p in net.parameters() if p.requires_grad)
        # Widths leave parameters unused now and then, and where there are none DDP prints a warning that no filter stops.
        self.unused = nn.Parameter(like.detach().new_zeros(1))

    def forward(self, run: Callable[[], Any]) -> Any:
        return run()
