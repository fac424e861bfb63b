"""Training with weights and optimiser state in shares (FSDP2): each process keeps one, and collects a module's while it runs.

    net          Conv2d.weight (64, 32, 3, 3)                      the caller's network, plain
    shards.net   Conv2d.weight DTensor (64, 32, 3, 3): (16, ...)   its sharded copy in 4 processes, which is trained
    net                                                            gets the collected weights when they are wanted

What all processes keep: statistics and affine pairs of narrow widths' batch norms (`net.norms`), and buffers.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from anywidth.elastic import Elastic
from anywidth.errors import RecipeError, unknown_name
from anywidth.train import distributed
from anywidth.train.config import FitConfig
from anywidth.train.replicas import unsynchronised

_ELEMENTWISE = (
    "sgd", "adamw", "torch:SGD", "torch:Adam", "torch:AdamW", "torch:NAdam", "torch:RAdam", "torch:Adamax", "torch:RMSprop",
    "torch:Adagrad", "torch:Adadelta",
)  # fmt: skip
"""Optimisers that treat every element alone, so that those of a share need no others."""


def check_sharding(config: FitConfig) -> None:
    """
    Raises:
        RecipeError: settings that a training in shares does not have.
    """
    if config.sharding is None:
        return
    refused = {
        "ema": bool(config.ema),
        "trunk": config.trunk is not None,
        "compile": config.compile,
        "sparsity": config.sparsity.on or bool(config.sparsity.init),
        "skip_zero_gradients": config.skip_zero_gradients,
        "channels_last": config.channels_last,
        "precision": config.precision == "float16",
        "optimizer": config.optimizer not in _ELEMENTWISE,
    }
    for key, bad in refused.items():
        # Refused and not ignored: a run is what its recipe says.
        if bad:
            better = {"precision": "use 'bfloat16'", "optimizer": f"use one of {', '.join(_ELEMENTWISE)}"}
            raise RecipeError(
                f"train.{key} = {getattr(config, key)!r} does not go with train.sharding = {config.sharding!r}: "
                f"{better.get(key, f'leave train.{key} out')}, or leave out train.sharding"
            )


def modules_to_shard(model: nn.Module, patterns: Iterable[str]) -> list[nn.Module]:
    """The modules that the patterns name, inner ones before outer ones.

    Raises:
        RecipeError: a pattern that matches nothing, or a container that is never called.
    """
    paths = {path: m for path, m in model.named_modules() if path}
    matches: dict[str, nn.Module] = {}
    for pattern in patterns:
        matching = {path: m for path, m in paths.items() if fnmatch.fnmatchcase(path, pattern)}
        if not matching:
            raise RecipeError(
                f"train.shard_modules: {unknown_name('module', pattern, paths)}; give module paths of {type(model).__name__}, "
                "or glob patterns of them"
            )
        matches |= matching
    for path, m in matches.items():
        if isinstance(m, nn.ModuleList | nn.ModuleDict):
            raise RecipeError(
                f"train.shard_modules: '{path}' is a {type(m).__name__}, which is never called; name what is in it: '{path}.*'"
            )
    # `named_modules` lists outer modules first. fully_shard takes the parameters that inner modules have not taken.
    return [paths[path] for path in reversed(paths) if path in matches]


class ShardedNet:
    """A network whose weights lie in shares, and the reduction of its gradients.

    Args:
        net: equal in all processes. It is copied, and the copy is sharded: while that is made each process holds both in full.
        patterns: of the modules that are collected as a whole.

    Attributes:
        net: the sharded copy.

    Raises:
        RecipeError: a pattern that matches nothing.
    """

    def __init__(self, net: Elastic, patterns: Iterable[str]) -> None:
        self._plain = net
        self.net = copy.deepcopy(net)
        modules = modules_to_shard(self.net.model, patterns)
        mesh = init_device_mesh(next(net.parameters()).device.type, (distributed.world(),))
        # Inner modules first; the model takes what is left.
        for m in modules:
            fully_shard(m, mesh=mesh)
        self._model: FSDPModule = fully_shard(self.net.model, mesh=mesh)
        self._synchronised = False

    def run(self, forward: Callable[[], Any]) -> Any:
        return forward()

    @contextmanager
    def synchronised(self, last: bool) -> Iterator[None]:
        self._model.set_requires_gradient_sync(last)
        yield
        self._synchronised |= last

    def finish_(self) -> None:
        """Average the gradients of what is not sharded: affine pairs of switchable norms.

        Raises:
            RuntimeError: no pass of the step was synchronised, so the processes' gradients differ.
        """
        if not self._synchronised:
            raise RuntimeError(unsynchronised())
        self._synchronised = False
        gradients = [p.grad for p in self.net.norms.affine.parameters() if p.grad is not None]
        if gradients:
            # One all-reduce for all: ravelled and joined, averaged, split again.
            mean = distributed.mean_over_processes(torch.cat([g.ravel() for g in gradients]))
            for g, chunk in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
                g.copy_(chunk.view_as(g))

    @torch.no_grad()
    def gather_(self) -> None:
        """Give the plain network, in every process, the weights and statistics of the sharded one."""
        for plain, p in zip(self._plain.parameters(), self.net.parameters(), strict=True):
            plain.copy_(p.full_tensor() if isinstance(p, DTensor) else p)
        for plain, b in zip(self._plain.buffers(), self.net.buffers(), strict=True):
            plain.copy_(b)
        for width, tensors in self.net.norms.statistics.items():
            for name, t in tensors.items():
                self._plain.norms.statistics[width][name].copy_(t)


def local(t: Tensor) -> Tensor:
    """The share of this process; a plain tensor as it is."""
    return t.to_local() if isinstance(t, DTensor) else t


@torch.no_grad()
def clip_(parameters: Iterable[nn.Parameter], largest: float) -> None:
    """Scale gradients, of shares and of plain parameters, so that their norm over all elements is at most `largest`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    shares = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    plain = [g for g in gradients if not isinstance(g, DTensor)]
    if not gradients:
        return
    # Shares (3, 4) in process 0 and (12,) in process 1: squares 25 + 144, norm 13. Plain gradients are equal in all
    # processes and count once.
    like = local(gradients[0])
    shares_norm, plain_norm = (nn.utils.get_total_norm(tensors).to(like) for tensors in (shares, plain))
    norm = (distributed.total(shares_norm.square()) + plain_norm.square()).sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as of torch's clip_grad_norm_
    for g in [*shares, *plain]:
        g.mul_(factor)


def separate_(optimizer: Optimizer) -> None:
    """Groups of either sharded or plain parameters: operations on lists of tensors do not take both."""
    optimizer.param_groups[:] = [
        {**group, "params": alike}
        for group in optimizer.param_groups
        for sharded in (True, False)
        if (alike := [p for p in group["params"] if isinstance(p, DTensor) is sharded])
    ]
