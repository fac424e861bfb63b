"""Training one set of weights for many widths."""

from anywidth.train.config import FitConfig, Progress
from anywidth.train.evaluate import Score, evaluate
from anywidth.train.loop import CHECKPOINT, DivergenceError, fit_
from anywidth.train.step import accumulate_, fixed, sandwich

__all__ = [
    "CHECKPOINT",
    "DivergenceError",
    "FitConfig",
    "Progress",
    "Score",
    "accumulate_",
    "evaluate",
    "fit_",
    "fixed",
    "sandwich",
]
