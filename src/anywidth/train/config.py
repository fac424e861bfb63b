"""The settings of a training, and where it stands."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from anywidth.train.optim import NoDecay
from anywidth.train.policies import Widths
from anywidth.train.schedule import Schedule
from anywidth.train.sparsity import SparsityConfig
from anywidth.train.targets import Smoothing

Precision = Literal["float32", "bfloat16", "float16"]
Dropout = Literal["all", "widest"]
Sharding = Literal["fully_shard"]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a training.

    Attributes:
        epochs: passes over the training images.
        lr: peak learning rate.
        optimizer: "sgd", "adamw", "torch:NAME" or "timm:NAME"; `optimizer_options` are further arguments.
        momentum, nesterov: of "sgd".
        weight_decay: of the parameters that decay.
        no_decay: "depthwise": vectors, scalars and depthwise convolutions do not decay; "vectors": vectors and
            scalars do not; "nothing": all parameters decay.
        schedule: how the learning rate falls after the warm-up; `milestones` (epochs) and `gamma` belong to
            "multistep", `gamma` to "exponential" (per epoch).
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        warmup_from: part of the peak learning rate from which the warm-up rises.
        target: what each width learns from: "widest" (in-place distillation), "next_wider", "ema", "ema_ensemble",
            "alpha", "labels", or "package.module:function"; `target_options` are its further arguments.
        label_smoothing: of the losses that use labels, spread over "all" classes or the "others"
            (`smoothing_over`).
        precision: of the forward passes; weights stay float32. "float16" scales the loss.
        channels_last: memory format of images and weights.
        compile: compile each width's network; random widths need a `grid` then.
        accumulate: micro-batches per step. Batch norms see a micro-batch and update their statistics with each; apart
            from them the step is that of the whole batch.
        dropout_on: the widths of a step in whose passes dropout acts: "all", or the "widest" alone.
        trunk: module path; what comes before its output runs once per step for all widths that keep the same of it. The step is the
            same, up to rounding.
        skip_zero_gradients: a parameter whose gradient of a step is exactly zero everywhere stays as it is: no weight
            decay, and its momentum waits.
        clip: largest norm of the gradient of a step, 0 for no limit.
        sparsity: a regulariser that presses channels towards zero, for pruning.
        ema: decay of a moving average of the weights, which is then the result; 0 for none.
        sync_norm: batch norms use the batch of all processes.
        sharding: "fully_shard": each process keeps a share of the weights and of the optimiser's state (FSDP2), and collects those of
            a module while it runs; None: all processes keep all.
        shard_modules: glob patterns of module paths, like "layer*.*"; each match is collected as a whole, what is left with the model.
        eval_every: epochs between evaluations while training, 0 for none; then the best epoch is the result.
        best: what the best epoch is best in: "mean" accuracy over the listed widths, "min", or a width's label.
        save_every: steps between checkpoints within an epoch; 0 for one after each epoch.
        log_every: steps between two lines of the log.
        tensorboard: write the log for TensorBoard too.

    Raises:
        ValueError: for a number out of its range.
    """

    epochs: int
    lr: float
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    no_decay: NoDecay = "depthwise"
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    warmup_from: float = 0.0
    target: str = "widest"
    target_options: dict[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0
    smoothing_over: Smoothing = "all"
    precision: Precision = "float32"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    dropout_on: Dropout = "all"
    trunk: str | None = None
    skip_zero_gradients: bool = False
    clip: float = 0.0
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    ema: float = 0.0
    sync_norm: bool = True
    sharding: Sharding | None = None
    shard_modules: tuple[str, ...] = ()
    eval_every: int = 0
    best: str | int | float = "mean"
    save_every: int = 0
    log_every: int = 50
    tensorboard: bool = False

    def __post_init__(self) -> None:
        rising = all(0 < a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        ranges = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 <= self.momentum < 1, "0 <= momentum < 1"),
            "nesterov": (self.momentum > 0 or not self.nesterov, "false where momentum is 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number from 0"),
            "milestones": (rising and bool(self.milestones) == (self.schedule == "multistep"), "rising epochs for the schedule 'multistep', none for others"),
            "gamma": (0 < self.gamma <= 1, "0 < gamma <= 1"),
            "warmup_epochs": (0 <= self.warmup_epochs < self.epochs, f"from 0 to below {self.epochs} epochs"),
            "warmup_from": (0 <= self.warmup_from < 1, "0 <= warmup_from < 1"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 <= label_smoothing < 1"),
            "accumulate": (self.accumulate >= 1, "at least 1 micro-batch"),
            "trunk": (self.trunk is None or not self.compile, "none where compile is true"),
            "clip": (0 <= self.clip < math.inf, "a number from 0"),
            "ema": (0 <= self.ema < 1, "0 <= ema < 1"),
            "sharding": (self.sharding in (None, "fully_shard"), "'fully_shard' or none"),
            "shard_modules": (not self.shard_modules or self.sharding is not None, "none where sharding is not set"),
            "eval_every": (self.eval_every >= 0, "a number of epochs from 0"),
            "save_every": (self.save_every >= 0, "a number of steps from 0"),
            "log_every": (self.log_every >= 1, "at least 1 step"),
        }  # fmt: skip
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected {expected}")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands after a step.

    Attributes:
        epoch: the present epoch, from 0.
        epochs: of the whole training.
        step: steps done, of all epochs.
        steps: of the whole training.
        widths: of this step.
        losses: one per width.
        lr: learning rate of this step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    widths: Widths = field(repr=False)
    losses: tuple[float, ...]
    lr: float
