"""The training loop: epochs, log, checkpoints, the best epoch, and going on after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError, MeasurementError, RecipeError
from anywidth.seeds import generator
from anywidth.train import checkpoint, distributed
from anywidth.train.best_epoch import Best, Scores
from anywidth.train.config import FitConfig, Progress
from anywidth.train.engine import Task, new_engine
from anywidth.train.fit_state import (
    CHECKPOINT,
    FitState,
    check_finite,
    check_losses,
    diverged,
)
from anywidth.train.log import Log
from anywidth.train.policies import Adaptive, Draw
from anywidth.train.shard_files import load_shards_, remove_other_shards, save_shards
from anywidth.train.synchronised_norms import synchronised_

_WIDTHS, _DROPOUT, _TEACHER = 1, 2, 3  # streams of the seed


class TrainBatches(Protocol):
    """A loader that knows its length and yields (images, labels)."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sequence[Tensor]]: ...


def _advance_(fit: FitState, draw: Adaptive) -> None:
    try:
        news = draw.advance_(fit.step)
    except MeasurementError as error:
        raise diverged(fit, f"epoch {fit.epoch + 1}, before step {fit.step + 1}", str(error)) from None
    if news is not None:
        fit.log("policy", fit.step + 1, **news)


def _step_(fit: FitState, batches: Sequence[Sequence[Tensor]]) -> None:
    if isinstance(fit.draw, Adaptive):
        _advance_(fit, fit.draw)
    widths, redrawn = fit.widths(_WIDTHS), fit.widths(_TEACHER) if fit.engine.redraws else ()
    lr = fit.lr()
    # Dropout draws from the global generator: a function of the step and the process, also after a restart.
    torch.manual_seed(generator(fit.seed, fit.step, _DROPOUT, distributed.rank()).initial_seed())
    losses = fit.engine.step_(batches, widths, lr, fit.step / fit.epoch_steps, redrawn)
    next_step = fit.step + 1
    # Reading a number back makes a GPU wait: there only now and then.
    if (
        fit.engine.device.type == "cpu"
        or not fit.last_losses
        or 0 in (next_step % fit.config.log_every, next_step % fit.epoch_steps)
    ):
        fit.last_losses = tuple(losses.tolist())
        check_losses(fit, widths, fit.last_losses)
        fit.sums = [
            a + b
            for a, b in zip(
                fit.sums or [0.0, 0.0, 0.0], (1.0, fit.last_losses[0], sum(fit.last_losses)), strict=True
            )
        ]
    progress = Progress(
        epoch=fit.epoch,
        epochs=fit.config.epochs,
        step=fit.step + 1,
        steps=fit.steps,
        widths=widths,
        losses=fit.last_losses,
        lr=lr,
    )
    fit.step += 1
    if fit.step % fit.config.log_every == 0:
        fit.log("step", fit.step, widths=[str(w) for w in widths], losses=fit.last_losses, lr=lr)
    fit.report(progress)


def _epoch_(fit: FitState, batches: TrainBatches) -> None:
    net, start, earlier_seconds = fit.engine.parts.net, time.perf_counter(), fit.seconds
    net.train()
    items = iter(batches)
    # The last micro-batches of an epoch, too few for a step, are left out.
    while len(micro := list(islice(items, fit.config.accumulate))) == fit.config.accumulate:
        _step_(fit, micro)
        fit.seconds = earlier_seconds + time.perf_counter() - start
        inside = fit.step % fit.epoch_steps
        if inside and fit.config.save_every and inside % fit.config.save_every == 0:
            _save(fit)
    # Number of steps that were read, and the sums of their widest and of their total loss.
    count, widest, every = fit.sums
    fit.log(
        "epoch", fit.step, epoch=fit.epoch, widest=widest / count, total=every / count, seconds=fit.seconds
    )
    fit.sums = []
    if fit.config.sparsity.l1:
        fit.log("scales", fit.step, epoch=fit.epoch, **fit.engine.sparsity.summary())


def _save(fit: FitState) -> None:
    check_finite(fit)
    # Shards first, then the checkpoint that names them, then the old shards go: a kill in between loses nothing.
    training_state, shards = fit.engine.parts, {}
    if fit.config.sharding:
        shards = {"shards": save_shards(fit.run, fit.step, training_state)}
    if distributed.rank() == 0:
        progress = {
            "step": fit.step,
            "seconds": fit.seconds,
            "sums": fit.sums,
            "best_epoch": fit.best.state(),
            **({"policy_state": fit.draw.state()} if isinstance(fit.draw, Adaptive) else {}),
            **shards,
        }
        checkpoint.save_checkpoint(fit.run / CHECKPOINT, training_state, {**fit.identity(), **progress})
        if shards:
            remove_other_shards(fit.run, shards["shards"])
    distributed.barrier()


def fit_(
    net: Elastic,
    batches: Callable[[int, int], TrainBatches],
    draw: Draw,
    config: FitConfig,
    *,
    seed: int,
    run: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    scores: Scores | None = None,
    task: Task | None = None,
) -> float:
    """Train `net` at many widths, on the device it is on; go on if a training was interrupted in `run`.

    Each step is a function of the state before it, the seed and the step's number. A training that is stopped at
    any moment and called again with the same arguments therefore ends with the same weights as an uninterrupted
    one (bit for bit on a CPU with the same number of threads). In several processes (`torchrun`) each has its share
    of every batch, and the weights are those that one process would find, up to the order of summation. Detectors
    draw regions in each process, so theirs differ where the draws do.

    With `config.sharding` a sharded copy of `net` is trained; `net` has its state, in full, at the end and when `scores` measures.

    Args:
        net: changed in place, left in training mode: the last weights, their moving average, or those of the best
            epoch, as the settings say.
        batches: epoch, steps of it to leave out -> loader of this process's share of each batch, cut into
            `config.accumulate` micro-batches, as (images, labels).
        draw: generator, progress -> widths of a step, widest first; an `Adaptive` one is told about every step.
        config: the settings.
        seed: of the random widths and dropout.
        run: existing directory for `log.jsonl` and `checkpoint.pt`.
        report: is told about every step.
        scores: network -> label of each listed width and its accuracy; for `config.eval_every`.
        task: what a step learns where it is not the classes of images; `batches` yield what it takes.

    Returns:
        Seconds of training, those before an interruption included.

    Raises:
        DivergenceError: if a loss or a weight is not finite; the last checkpoint stays.
        CheckpointError: if `run` holds a damaged checkpoint, or one of other settings.
        RecipeError: a name in the settings that does not exist, or settings that do not go together.
    """
    _check_policy(draw, config)
    engine = new_engine(net, config, task)
    fit = FitState(
        engine=engine,
        draw=draw,
        config=config,
        seed=seed,
        epoch_steps=len(batches(0, 0)) // config.accumulate,
        run=run,
        log=Log(run, tensorboard=config.tensorboard, silent=distributed.rank() > 0),
        report=report,
        best=Best(run, config, scores, [str(label) for label in net.widths]),
    )
    _resume_(fit)
    _train_(fit, batches)
    _finish_(fit, net)
    return fit.seconds


def _check_policy(draw: Draw, config: FitConfig) -> None:
    if config.sharding and isinstance(draw, Adaptive):
        raise RecipeError(
            f"train.sharding = {config.sharding!r} does not go with a width policy that measures the network while it is trained, like "
            "'joslim': leave out train.sharding, or use another widths.policy"
        )


def _train_(fit: FitState, batches: Callable[[int, int], TrainBatches]) -> None:
    engine = fit.engine
    # Everything random is seeded from the step, so going on needs no generator states.
    devices = [engine.device] if engine.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), fit.log:
        while fit.step < fit.steps:
            # Not while the best epoch is looked for: processes calibrate alone.
            with synchronised_(engine.parts.net, fit.config.sync_norm):
                _epoch_(fit, batches(fit.epoch, fit.step % fit.epoch_steps))
            if fit.best.due(fit.epoch):
                fit.log("scores", fit.step, epoch=fit.epoch, **fit.best.look_(fit.epoch, engine.gather_()))
            _save(fit)


def _finish_(fit: FitState, net: Elastic) -> None:
    fit.best.finish_(fit.engine.gather_())
    if not fit.config.sync_norm:  # each process saw other batches; checkpoints hold what the first one saw
        narrow = [t for tensors in net.norms.statistics.values() for t in tensors.values()]
        distributed.broadcast_([*net.buffers(), *narrow])
    if isinstance(fit.draw, Adaptive):
        fit.draw.finish_()
    net.train()


def _resume_(fit: FitState) -> None:
    """Go to where a training in this directory stopped, if one was begun."""
    path = fit.run / CHECKPOINT
    state = distributed.from_first(lambda: checkpoint.read(path) if path.exists() else None)
    # Compared here, since processes with different settings would wait for each other later on.
    if len({repr(identity) for identity in distributed.gathered(fit.identity())}) > 1:
        raise CheckpointError(
            "training: the processes were started with different settings; start them alike"
        )
    facts = {"device": str(fit.engine.device), "processes": distributed.world(), "torch": torch.__version__}
    if state is None:
        fit.log.restart_()
        fit.log("start", 0, **fit.identity(), steps=fit.steps, **facts)
        return
    progress = checkpoint.load_(path, state, fit.engine.parts, expected=fit.identity())
    fit.step, fit.seconds, fit.sums = progress["step"], progress["seconds"], progress["sums"]
    fit.best.load_(progress["best_epoch"])
    if isinstance(fit.draw, Adaptive):
        fit.draw.load_(progress["policy_state"])
    if fit.config.sharding:
        load_shards_(fit.run / progress["shards"], fit.engine.parts)
    fit.log.rewind_(step=fit.step)
    fit.log("resume", fit.step, **facts)
