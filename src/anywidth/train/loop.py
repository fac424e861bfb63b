"""The training loop: epochs, log, checkpoints, and going on after an interruption."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from anywidth.elastic import Elastic
from anywidth.errors import AnywidthError
from anywidth.train import checkpoint, log
from anywidth.train.config import FitConfig, Progress
from anywidth.train.optim import lr_factor, set_lr_, sgd
from anywidth.train.step import Draw, Widths, accumulate_

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
_IMAGES, _WIDTHS, _DROPOUT = range(3)


class DivergenceError(AnywidthError, FloatingPointError):
    """Training produced a number that is not finite."""


class Batches(Protocol):
    """A loader that knows its length and yields (images, labels)."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sequence[Tensor]]: ...


def generator(seed: int, *stream: int) -> torch.Generator:
    """A CPU generator for one purpose; different streams of a seed are independent."""
    (state,) = np.random.SeedSequence([seed, *stream]).generate_state(1, dtype=np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What stays the same over a training."""

    net: Elastic
    optimizer: Optimizer
    draw: Draw
    config: FitConfig
    seed: int
    epoch_steps: int
    run: Path
    report: Callable[[Progress], None]

    @property
    def steps(self) -> int:
        return self.config.epochs * self.epoch_steps

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device


def _diverged(job: _Job, where: str, what: str) -> DivergenceError:
    path = job.run / CHECKPOINT
    kept = f"the state after the last good epoch is kept in {path}; train in another directory"
    return DivergenceError(
        f"training, {where}: {what}; lower the learning rate (now at most {job.config.lr:g}) or lengthen the "
        f"warm-up (now {job.config.warmup_epochs:g} epochs); {kept if path.exists() else 'nothing was saved'}"
    )


def _step_(job: _Job, step: int, images: Tensor, labels: Tensor, widths: Widths) -> Progress:
    config = job.config
    warmup = round(config.warmup_epochs * job.epoch_steps)
    lr = config.lr * lr_factor(step, steps=job.steps, warmup=warmup, schedule=config.schedule)
    set_lr_(job.optimizer, lr)
    job.optimizer.zero_grad()
    losses = accumulate_(
        job.net, images, labels, widths, distill=config.distill, smoothing=config.label_smoothing
    ).tolist()
    epoch = step // job.epoch_steps
    for width, loss in zip(widths, losses, strict=True):
        if not math.isfinite(loss):
            raise _diverged(
                job, f"epoch {epoch + 1}, step {step + 1}", f"the loss of width {width} is {loss}"
            )
    job.optimizer.step()
    return Progress(
        epoch=epoch,
        epochs=config.epochs,
        step=step + 1,
        steps=job.steps,
        widths=widths,
        losses=tuple(losses),
        lr=lr,
    )


def _epoch_(job: _Job, epoch: int, batches: Batches) -> None:
    job.net.train()
    widths = generator(job.seed, epoch, _WIDTHS)
    history = []
    start = time.perf_counter()
    for index, (images, labels) in enumerate(batches):
        step = epoch * job.epoch_steps + index
        done = _step_(job, step, images.to(job.device), labels.to(job.device), job.draw(widths))
        history.append(done.losses)
        if done.step % job.config.log_every == 0:
            _log(job, "step", done.step, widths=[str(w) for w in done.widths], losses=done.losses, lr=done.lr)
        job.report(done)
    seconds = time.perf_counter() - start
    losses = np.mean(history, axis=0).tolist()
    _log(job, "epoch", (epoch + 1) * job.epoch_steps, epoch=epoch + 1, losses=losses, seconds=seconds)


def _log(job: _Job, event: str, step: int, **values: object) -> None:
    log.append(job.run / LOG, {"event": event, "step": step, **values})


def _check_finite(job: _Job, epoch: int) -> None:
    for name, tensor in (job.net.state_dict() | job.net.norm_state()).items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise _diverged(job, f"end of epoch {epoch + 1}", f"{name} holds a number that is not finite")


def fit_(
    net: Elastic,
    batches: Callable[[torch.Generator], Batches],
    draw: Draw,
    config: FitConfig,
    *,
    seed: int,
    run: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> float:
    """Train `net` at many widths, on the device it is on; go on if a training was interrupted in `run`.

    Each epoch is a function of the state before it, the seed and the epoch's number, and the state is saved
    after every epoch. A training that is stopped at any moment and called again with the same arguments
    therefore ends with the same weights as an uninterrupted one (bit for bit on a CPU with the same number
    of threads).

    Args:
        net: changed in place, left in training mode.
        batches: generator -> loader of (images, labels) in an order that depends on the generator only.
        draw: generator -> widths of a step, widest first.
        config: the settings.
        seed: of the order of the images, the random widths and dropout.
        run: existing directory for `log.jsonl` and `checkpoint.pt`.
        report: is told about every step.

    Returns:
        Seconds of training, those before an interruption included.

    Raises:
        DivergenceError: if a loss or a weight is not finite; the last checkpoint stays.
        CheckpointError: if `run` holds a damaged checkpoint, or one of other settings.
    """
    optimizer = sgd(
        net,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )
    job = _Job(
        net=net,
        optimizer=optimizer,
        draw=draw,
        config=config,
        seed=seed,
        epoch_steps=len(batches(generator(seed, 0, _IMAGES))),
        run=run,
        report=report,
    )
    first, seconds = _resume_(job)
    for epoch in range(first, config.epochs):
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[job.device] if job.device.type == "cuda" else []):
            torch.manual_seed(generator(seed, epoch, _DROPOUT).initial_seed())
            _epoch_(job, epoch, batches(generator(seed, epoch, _IMAGES)))
        _check_finite(job, epoch)
        seconds += time.perf_counter() - start
        progress = {**_identity(job), "epoch": epoch + 1, "seconds": seconds}
        checkpoint.save(run / CHECKPOINT, net, optimizer, progress)
    return seconds


def _identity(job: _Job) -> dict[str, object]:
    listed = [str(label) for label in job.net.widths]
    return {**asdict(job.config), "seed": job.seed, "epoch_steps": job.epoch_steps, "listed": listed}


def _resume_(job: _Job) -> tuple[int, float]:
    """Epochs done and their seconds."""
    path = job.run / CHECKPOINT
    if not path.exists():
        (job.run / LOG).unlink(missing_ok=True)
        _log(
            job,
            "start",
            0,
            **_identity(job),
            steps=job.steps,
            device=str(job.device),
            torch=torch.__version__,
        )
        return 0, 0.0
    progress = checkpoint.load_(path, job.net, job.optimizer, expected=_identity(job))
    step = progress["epoch"] * job.epoch_steps
    log.rewind_(job.run / LOG, step=step)
    _log(job, "resume", step, epoch=progress["epoch"], device=str(job.device), torch=torch.__version__)
    return progress["epoch"], progress["seconds"]
