"""Questions about values that a tensor on `meta` does not have.

if (mask == 0).all(): ...        on meta: "no", and the place is reported; the other branch is not tried
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from anywidth.compat.module_state import tensors_of
from anywidth.compat.tracing import DispatchMode, reads_a_number
from anywidth.tracing.model_outputs import tensors_in

_log = logging.getLogger(__name__)


class _Answers(DispatchMode):
    """Answers no, 0 or 0.0 for a tensor without values."""

    def __init__(self, place: Callable[[], str]) -> None:
        super().__init__()
        self.place = place
        self.places: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if reads_a_number(func) and args[0].is_meta:
            self.places[self.place() or "<root>"] = None
            return torch.zeros((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))


@contextmanager
def answers_on_meta(model: nn.Module, example: Any, place: Callable[[], str] | None = None) -> Iterator[None]:
    """A model on `meta` runs through code that looks at values: every such question is answered with no or 0.

    Args:
        model: is run inside.
        example: its inputs.
        place: the path of the module that runs, to log where questions were answered; None to log nothing.
    """
    if not any(t.is_meta for t in (*tensors_of(model), *tensors_in(example))):
        yield
        return
    mode = _Answers(place or str)
    try:
        with mode:
            yield
    finally:
        if mode.places and place is not None:
            _log.warning(
                "on meta there are no values, so branches that depend on them were not tried, but taken as for no or 0: in %s",
                ", ".join(mode.places),
            )
