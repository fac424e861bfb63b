"""One optimiser step: micro-batches, gradients as means over processes, clipping, the moving average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from anywidth.compat.many_tensors import norms_of
from anywidth.compat.trees import map_only
from anywidth.elastic import Elastic
from anywidth.errors import RecipeError
from anywidth.graph.shared_prefix import Trunk
from anywidth.train import distributed
from anywidth.train.checkpoint import Parts
from anywidth.train.config import FitConfig
from anywidth.train.ema import Ema
from anywidth.train.optim import optimizer
from anywidth.train.policies import Widths
from anywidth.train.precision import autocast, scaler
from anywidth.train.replicas import OneProcess, Replicas, Synchronisation
from anywidth.train.sharding import ShardedNet, check_sharding, clip_, modules_to_shard, separate_
from anywidth.train.sparsity import Sparsity
from anywidth.train.step import Pass, accumulate_, dropouts, narrowest
from anywidth.train.targets import Target, make_target
from anywidth.views import is_compiled

Batch = Sequence[Any]


class Task(Protocol):
    """What a step learns where it is not the classes of images."""

    def __call__(self, net: Elastic, batch: Any, widths: Widths, how: Pass) -> Tensor:
        """Run every width forward and backward on a micro-batch.

        Both passes of a width belong inside `how.synchronised(last)`, with `last=True` for the last width, and the forward pass into
        `how.run(function)`.

        Returns:
            (len(widths),) losses, detached.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a step needs, and what it changes.

    Attributes:
        net: the network that gets the result: that of `parts`, but for training in shares.
    """

    net: Elastic
    parts: Parts
    config: FitConfig
    device: torch.device
    target: Target
    synchronisation: Synchronisation
    sparsity: Sparsity
    trunk: Trunk | None = None
    task: Task | None = None
    compiled: set[int] = field(default_factory=set)

    @cached_property
    def _step_pass(self) -> Pass:
        # A micro-batch counts for its share of the step: a mean over the batch, whatever `accumulate` is.
        ema = self.parts.ema
        return Pass(
            autocast=partial(autocast, self.device, self.config.precision),
            scale=lambda loss: self.parts.scaler.scale(loss / self.config.accumulate),
            view=self._compiled if self.config.compile else Elastic.at,
            teacher=None if ema is None else ema.logits,
            run=self.synchronisation.run,
            trunk=self.trunk,
            dropout_on=self.config.dropout_on,
        )

    def gather_(self) -> Parts:
        """What was trained, with `net` in its present state, plain and in full in every process."""
        if isinstance(self.synchronisation, ShardedNet):
            self.synchronisation.gather_()
        return replace(self.parts, net=self.net)

    @property
    def redraws(self) -> bool:
        """Whether a step wants widths for the moving average."""
        return self.target.redraws

    def _compiled(self, net: Elastic, width: Any) -> nn.Module:
        view = net.at(width)
        return view if is_compiled(view) else net.compile([width])[width]

    def _micro_pass(self, *, last: bool, redrawn: Widths) -> Pass:
        """How a micro-batch runs; in the last one of a step the last pass is synchronised."""
        synchronised = self.synchronisation.synchronised
        return replace(
            self._step_pass, redrawn=redrawn, synchronised=lambda final: synchronised(last and final)
        )

    def step_(
        self, batches: Sequence[Batch], widths: Widths, lr: float, epoch: float = 0.0, redrawn: Widths = ()
    ) -> Tensor:
        """Change the weights once.

        Args:
            batches: micro-batches (images, labels), or what the task takes, of this process.
            widths: of this step.
            lr: learning rate.
            epoch: how far the training is, for what begins or ends on the way.
            redrawn: a second draw of the same policy, the widest first; the moving average teaches at the widths between
                its ends, if the target `redraws`.

        Returns:
            (len(widths),) losses, means over the whole batch of all processes. Where one is not finite the
            weights stay as they were (on a GPU: look at it before you save).
        """
        training_state = self.parts
        for group in training_state.optimizer.param_groups:
            group["lr"] = lr
        training_state.optimizer.zero_grad()
        # Two micro-batches, three widths: by_micro (2, 3) losses -> mean over micro-batches and processes -> (3,). Gradients
        # add up, each scaled by 1 / 2, and are reduced over processes in the last pass of the last micro-batch only.
        by_micro, net = [], training_state.net
        between = between_ends(net, redrawn)
        for index, batch in enumerate(batches):
            micro_pass = self._micro_pass(last=index == len(batches) - 1, redrawn=between)
            if self.task is not None:
                device_batch = map_only(Tensor, lambda t: t.to(self.device, non_blocking=True), tuple(batch))
                by_micro.append(self.task(net, device_batch, widths, micro_pass))
                continue
            x, y = self._moved(batch[0]), batch[1].to(self.device, non_blocking=True)
            by_micro.append(accumulate_(net, x, y, widths, target=self.target, how=micro_pass))
        self.synchronisation.finish_()
        losses = distributed.mean_over_processes(torch.stack(by_micro).mean(0))
        # Reading the losses would make a GPU wait in every step.
        if self.device.type == "cpu" and not losses.isfinite().all():
            return losses
        self._update_(epoch)
        return losses

    def _moved(self, images: Tensor) -> Tensor:
        layout = (
            torch.channels_last if self.config.channels_last and images.ndim == 4 else torch.preserve_format
        )
        return images.to(self.device, non_blocking=True, memory_format=layout)

    def _update_(self, epoch: float) -> None:
        training_state = self.parts
        if self.config.skip_zero_gradients:
            drop_zero_gradients_(training_state.net.parameters())
        # The norm is that of the unscaled gradients, and the sparsity term comes after clipping, so that a large gradient does
        # not weaken it.
        if self.config.clip or self.config.sparsity.on:
            training_state.scaler.unscale_(training_state.optimizer)
        if self.config.clip:
            clip = clip_ if self.config.sharding else nn.utils.clip_grad_norm_
            clip(training_state.net.parameters(), self.config.clip)
        self.sparsity.add_(epoch)
        training_state.scaler.step(training_state.optimizer)
        training_state.scaler.update()
        if training_state.ema is not None:
            training_state.ema.update_(training_state.net)


def between_ends(net: Elastic, widths: Widths) -> Widths:
    """The widths of a step without the first, the widest, and without the narrowest."""
    if len(widths) < 3:
        return ()
    # (1.0, 0.4, 0.25, 0.7) -> (0.4, 0.7).
    low = narrowest(net, widths)
    return [width for index, width in enumerate(widths) if index not in (0, low)]


def drop_zero_gradients_(parameters: Iterable[nn.Parameter]) -> None:
    """Parameters whose gradient is zero everywhere have none, so that an optimiser passes over them.

    Source: the published code of arXiv 2103.13258.
    """
    pairs = [(p, p.grad) for p in parameters if p.grad is not None]
    if not pairs:
        return
    largest = norms_of([g for _, g in pairs], math.inf)
    nonzero = torch.stack([size != 0 for size in largest]).tolist()  # one look for all: it makes a GPU wait
    for (p, _), is_nonzero in zip(pairs, nonzero, strict=True):
        if not is_nonzero:
            p.grad = None


def new_engine(net: Elastic, config: FitConfig, task: Task | None = None) -> Engine:
    """The engine of a training from its first step; `net` gets the memory format of the settings, and the first process's weights.

    With `config.sharding` in several processes a sharded copy of `net` is trained; `Engine.gather_` brings `net` to its state.

    Raises:
        RecipeError: unknown names of optimiser or target, a target that needs a moving average without one, dropout on the widest of
            a network that has none, or what a training in shares does not have.
    """
    device = next(net.parameters()).device
    if config.channels_last:
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    target = make_target(
        config.target,
        smoothing=config.label_smoothing,
        over=config.smoothing_over,
        options=config.target_options,
    )
    _check(net, config, target)
    trunk = None if config.trunk is None else Trunk(net.space, net.norms.policy, config.trunk)
    if trunk is not None:
        trunk.parts(net.at(next(iter(net.widths))))  # a wrong name shows now
    sparsity = Sparsity(net, config.sparsity)
    sparsity.init_()
    # Before the sharded copy and the moving average are made from `net`.
    distributed.broadcast_([*net.parameters(), *net.buffers()])
    synchronisation = _synchronisation(net, config)
    trained = synchronisation.net if isinstance(synchronisation, ShardedNet) else net
    training_state = Parts(
        net=trained,
        optimizer=_optimizer(trained, config),
        scaler=scaler(device, config.precision),
        ema=Ema(net, config.ema) if config.ema else None,
        sharding=config.sharding is not None,
    )
    return Engine(
        net=net,
        parts=training_state,
        config=config,
        device=device,
        target=target,
        sparsity=sparsity,
        trunk=trunk,
        task=task,
        synchronisation=synchronisation,
    )


def _check(net: Elastic, config: FitConfig, target: Target) -> None:
    if target.needs_teacher and not config.ema:
        raise RecipeError(f"target {config.target!r} learns from a moving average: set train.ema, like 0.997")
    if config.dropout_on != "all" and not dropouts(net):
        raise RecipeError(
            f"train.dropout_on = {config.dropout_on!r}: {type(net.model).__name__} has no dropout layer of torch.nn; leave the key "
            "out, or give the network one"
        )
    check_sharding(config)
    modules_to_shard(net.model, config.shard_modules)


def _synchronisation(net: Elastic, config: FitConfig) -> Synchronisation:
    if distributed.world() == 1:
        return OneProcess()
    return Replicas(net) if config.sharding is None else ShardedNet(net, config.shard_modules)


def _optimizer(net: Elastic, config: FitConfig) -> torch.optim.Optimizer:
    optimiser = optimizer(
        net,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        spare=config.no_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        options=config.optimizer_options,
    )
    separate_(optimiser)
    return optimiser
