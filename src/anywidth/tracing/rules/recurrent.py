"""Rules of what recurrent layers use beside products and gates: packed sequences, and the fused cells of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anywidth.tracing.rules.movement import without
from anywidth.tracing.trace_state import Walk, outputs


def pack(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """(T, N, C), or (N, T, C), without its padding: (sum of lengths, C)."""
    shadows = without(walk, walk.shadows(args[0]), [0, 1])
    walk.set(outputs(out)[0], [s.squeeze(0) for s in shadows])


def fused_cell(gates: int) -> Any:
    """A cell on a GPU: the gates of the input and of the state, each (N, gates H), with the state (N, H)."""

    def rule(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        # LSTM of 2 units: labels 1 2 1 2 1 2 1 2 along the gates, the same units in each of the four.
        terms = [t for t in (args[0], args[1], *args[3:]) if isinstance(t, Tensor)]
        units = []
        for s in walk.elementwise(terms, args[0].shape):
            table = s.unflatten(1, (gates, -1)) if s.shape[1] > 1 else s.unsqueeze(1)
            walk.ledger.equate(table, table[:, :1])
            units.append(table[:, 0])
        state = args[2]
        shadows = walk.together(units, state.shape, walk.shadows(state), state.shape)
        for t in outputs(out):
            if t.shape == state.shape:
                walk.set(t, shadows)

    return rule
