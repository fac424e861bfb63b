"""Fake quantisation: what quantisation-aware training does to weights and activations. Ranges are of a whole tensor, or one per channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anywidth.tracing.labels import varying
from anywidth.tracing.trace_state import Walk, outputs

_PER_ROW = 11  # position among the arguments of _fused_moving_avg_obs_fq_helper, after `ch_axis`


def fake_quantise_per_channel(
    walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any
) -> None:
    """(source, scale, zero_point, axis, ...): one scale and one zero point per channel of the axis."""
    _per_channel(walk, args[0], args[1:3], args[3], outputs(out)[0])


def observe_and_fake_quantise(
    walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any
) -> None:
    """Moving averages of the extremes, and quantisation with them: of the whole tensor, or of each row."""
    source, ranges, axis = args[0], args[3:7], args[10]
    if not (len(args) > _PER_ROW and args[_PER_ROW]):
        walk.set(outputs(out)[0], walk.shadows(source))
        return
    if source.shape[axis] > 1 and not any(walk.shadows(t) for t in ranges):
        # They had no entries before this operation, and would take the number of the first width that runs.
        rows = [s for s in walk.shadows(source) if axis in varying(s)]
        walk.freeze(
            rows,
            "observers that have seen nothing yet have no ranges to narrow: run the model once in training before",
        )
    _per_channel(walk, source, ranges, axis, outputs(out)[0])


def _per_channel(walk: Walk, source: Tensor, ranges: Sequence[Tensor], axis: int, result: Tensor) -> None:
    shape = [source.shape[d] if d == axis else 1 for d in range(source.ndim)]
    shadows = walk.shadows(source)
    for t in ranges:
        shadows = walk.together(shadows, source.shape, [s.reshape(shape) for s in walk.shadows(t)], shape)
    walk.set(result, shadows)
