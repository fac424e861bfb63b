"""What a width learns from. One file a target; `Context` says what a target may look at."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from anywidth.errors import RecipeError
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
    if isinstance(function, Target) or _is_loss(function):
        if options:
            raise RecipeError(f"target {name!r} is a loss, which takes no options; got {', '.join(options)}")
        return as_target(function)
    return as_target(call_with("target", name, function, {"smoothing": smoothing, "over": over}, options))


def _is_loss(function: Callable[..., Any]) -> bool:
    """Whether a function is a loss of (logits, labels, context) itself, and not one that makes it."""
    empty = inspect.Parameter.empty
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) == 3


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
