"""A training under way: how far it is, and whether it still makes sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from anywidth.errors import AnywidthError
from anywidth.seeds import generator
from anywidth.train import distributed
from anywidth.train.best_epoch import Best
from anywidth.train.config import FitConfig, Progress
from anywidth.train.engine import Engine
from anywidth.train.log import Log
from anywidth.train.policies import Adaptive, Draw, Widths
from anywidth.train.schedule import lr_factor
from anywidth.train.sharding import local

CHECKPOINT = "checkpoint.pt"


class DivergenceError(AnywidthError, FloatingPointError):
    """Training produced a number that is not finite."""


@dataclass(kw_only=True)
class FitState:
    """A training under way: what stays the same, and how far it is."""

    engine: Engine
    draw: Draw
    config: FitConfig
    seed: int
    epoch_steps: int
    run: Path
    log: Log
    report: Callable[[Progress], None]
    best: Best
    step: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=list)
    last_losses: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        return self.config.epochs * self.epoch_steps

    @property
    def epoch(self) -> int:
        return self.step // self.epoch_steps

    def identity(self) -> dict[str, object]:
        """What must be the same for a checkpoint to be of this training."""
        listed = [[str(label), list(w.kept)] for label, w in self.engine.parts.net.widths.items()]
        # These change nothing but what is written about the training, and where weights lie.
        exempt = ("log_every", "tensorboard", "shard_modules")
        settings = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in asdict(self.config).items()
            if k not in exempt
        }
        # A policy with a state of its own says what must be the same for that state to be of use.
        adaptive = {"policy": self.draw.identity()} if isinstance(self.draw, Adaptive) else {}
        return {**settings, "seed": self.seed, "epoch_steps": self.epoch_steps, "listed": listed, **adaptive}

    def widths(self, stream: int) -> Widths:
        """A draw for this step."""
        return self.draw(generator(self.seed, self.step, stream), self.step / self.steps)

    def lr(self) -> float:
        config = self.config
        return config.lr * lr_factor(
            self.step,
            steps=self.steps,
            warmup=round(config.warmup_epochs * self.epoch_steps),
            schedule=config.schedule,
            epoch_steps=self.epoch_steps,
            milestones=config.milestones,
            gamma=config.gamma,
            warmup_from=config.warmup_from,
        )


def diverged(fit: FitState, location: str, what: str) -> DivergenceError:
    path = fit.run / CHECKPOINT
    kept = f"the last good state is kept in {path}; train in another directory"
    return DivergenceError(
        f"training, {location}: {what}; lower the learning rate (now at most {fit.config.lr:g}) or lengthen the "
        f"warm-up (now {fit.config.warmup_epochs:g} epochs); {kept if path.exists() else 'nothing was saved'}"
    )


def check_losses(fit: FitState, widths: Widths, losses: Sequence[float]) -> None:
    location = f"epoch {fit.epoch + 1}, step {fit.step + 1}"
    for width, loss in zip(widths, losses, strict=True):
        if not math.isfinite(loss):
            raise diverged(fit, location, f"the loss of width {width} is {loss}")


def check_finite(fit: FitState) -> None:
    # In shares each process sees its own numbers only, so the names are gathered.
    bad = next((n for n, t in fit.engine.parts.net.state_dict().items() if not _finite(local(t))), None)
    names = distributed.gathered(bad) if fit.config.sharding else [bad]
    for name in names:
        if name is not None:
            raise diverged(fit, f"after step {fit.step}", f"{name} holds a number that is not finite")


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
