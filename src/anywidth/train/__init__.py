"""Training one set of weights for many widths."""

from anywidth.train.at_width import AtWidth
from anywidth.train.config import FitConfig, Progress
from anywidth.train.evaluate import Score, evaluate, evaluate_module
from anywidth.train.fit_state import CHECKPOINT, DivergenceError
from anywidth.train.loop import fit_
from anywidth.train.policies import (
    Adaptive,
    Draw,
    Drawn,
    Joslim,
    Proposer,
    WidthPolicy,
    listed,
    listed_sandwich,
    min_max,
    progressive,
    random_only,
    sandwich,
    width_policy,
)
from anywidth.train.schedule import lr_factor, set_lr_
from anywidth.train.sparsity import Sparsity, SparsityConfig
from anywidth.train.step import accumulate_
from anywidth.train.targets import (
    Context,
    Target,
    alpha,
    distillation_loss,
    ema,
    ema_ensemble,
    label_loss,
    labels,
    next_wider,
    soft_targets,
    widest,
)

__all__ = [
    "CHECKPOINT",
    "Adaptive",
    "AtWidth",
    "Context",
    "DivergenceError",
    "Draw",
    "Drawn",
    "FitConfig",
    "Joslim",
    "Progress",
    "Proposer",
    "Score",
    "Sparsity",
    "SparsityConfig",
    "Target",
    "WidthPolicy",
    "accumulate_",
    "alpha",
    "distillation_loss",
    "ema",
    "ema_ensemble",
    "evaluate",
    "evaluate_module",
    "fit_",
    "label_loss",
    "labels",
    "listed",
    "listed_sandwich",
    "lr_factor",
    "min_max",
    "next_wider",
    "progressive",
    "random_only",
    "sandwich",
    "set_lr_",
    "soft_targets",
    "widest",
    "width_policy",
]
