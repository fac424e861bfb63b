"""Training one set of weights for many widths."""

from anywidth.train.at_width import AtWidth
from anywidth.train.config import FitConfig, Progress
from anywidth.train.evaluate import Score, evaluate, evaluate_module
from anywidth.train.loop import CHECKPOINT, DivergenceError, fit_
from anywidth.train.policies import (
    Adaptive,
    Draw,
    Drawn,
    Joslim,
    Proposer,
    listed,
    listed_sandwich,
    min_max,
    progressive,
    random_only,
    sandwich,
)
from anywidth.train.step import accumulate_
from anywidth.train.targets import alpha, ema, ema_ensemble, labels, next_wider, widest

__all__ = [
    "CHECKPOINT",
    "Adaptive",
    "AtWidth",
    "DivergenceError",
    "Draw",
    "Drawn",
    "FitConfig",
    "Joslim",
    "Progress",
    "Proposer",
    "Score",
    "accumulate_",
    "alpha",
    "ema",
    "ema_ensemble",
    "evaluate",
    "evaluate_module",
    "fit_",
    "labels",
    "listed",
    "listed_sandwich",
    "min_max",
    "next_wider",
    "progressive",
    "random_only",
    "sandwich",
    "widest",
]
