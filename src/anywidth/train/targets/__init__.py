"""What a width learns from. One file a target; `Context` says what a target may look at."""

from collections.abc import Callable, Mapping
from typing import Any

from anywidth.import_path import call_with, find
from anywidth.train.targets.alpha import alpha
from anywidth.train.targets.context import Context, Target, as_target
from anywidth.train.targets.ema import ema
from anywidth.train.targets.ema_ensemble import ema_ensemble
from anywidth.train.targets.labels import labels
from anywidth.train.targets.losses import Smoothing, distillation_loss, label_loss, soft_targets
from anywidth.train.targets.next_wider import next_wider
from anywidth.train.targets.widest import widest

TARGETS: dict[str, Callable[..., Target]] = {
    f.__name__: f for f in (labels, widest, next_wider, ema, ema_ensemble, alpha)
}


def make_target(name: str, *, smoothing: float, over: Smoothing, options: Mapping[str, Any]) -> Target:
    """The target that a recipe names.

    Raises:
        RecipeError: unknown name or option.
    """
    function = find("target", name, TARGETS)
    return as_target(call_with("target", name, function, {"smoothing": smoothing, "over": over}, options))


__all__ = [
    "TARGETS",
    "Context",
    "Smoothing",
    "Target",
    "alpha",
    "as_target",
    "distillation_loss",
    "ema",
    "ema_ensemble",
    "label_loss",
    "labels",
    "make_target",
    "next_wider",
    "soft_targets",
    "widest",
]
