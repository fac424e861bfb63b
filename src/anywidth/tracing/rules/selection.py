"""Rules of operations that say where along a dimension something stands: argmax, max(dim), topk, sort, nonzero.

Values survive as in any reduction. The positions that come with them are numbers of channels: see `Walk.positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anywidth.tracing.rules.movement import without
from anywidth.tracing.rules.reduction import pointwise, reduce
from anywidth.tracing.trace_state import Walk, outputs


def _dim(args: Sequence[Any], kwargs: dict[str, Any], place: int, default: int | None) -> int | None:
    value = args[place] if len(args) > place else kwargs.get("dim", default)
    return None if value is None else value % max(args[0].ndim, 1)


def _positions(walk: Walk, source: Tensor, out: Tensor, dim: int | None) -> None:
    walk.positions(out, walk.shadows(source), range(source.ndim) if dim is None else [dim])


def arg_extremum(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """(N, C, H, W) -> (N, H, W): the number of the largest channel. Without a dimension: a number in the flattened tensor."""
    reduce(walk, func, args, kwargs, out)
    _positions(walk, args[0], out, _dim(args, kwargs, 1, None))


def extremum(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """The largest value, and along a dimension also where it stands: the largest of fewer channels is as good a value."""
    if len(args) > 1 and isinstance(args[1], Tensor):  # of two tensors
        pointwise(walk, func, args, kwargs, out)
        return
    reduce(walk, func, args, kwargs, out)
    results = outputs(out)
    if len(results) == 2:
        _positions(walk, args[0], results[1], _dim(args, kwargs, 1, -1))


def ranked(place: int) -> Any:
    """Values in another order, or some of them by rank: the dimension keeps its size, as its number of values is in the code.

    Args:
        place: of the dimension among the arguments.
    """

    def rule(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        source = args[0]
        dim = _dim(args, kwargs, place, -1)
        assert dim is not None
        shadows = without(walk, walk.shadows(source), [dim])
        for t in outputs(out):
            same_rank = t.ndim == source.ndim
            walk.set(t, shadows if same_rank else [s.select(dim, 0) for s in shadows])

    return rule


def running_extremum(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Running maximum along a dimension, and where it stood: both depend on the order of channels."""
    dim = _dim(args, kwargs, 1, -1)
    assert dim is not None
    for s in walk.shadows(args[0]):
        if s.shape[dim] > 1:
            walk.ledger.ordered.append(s.numpy().ravel())
    for t in outputs(out):
        walk.set(t, walk.shadows(args[0]))
    _positions(walk, args[0], outputs(out)[1], dim)


def places(walk: Walk, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Where values are not zero, or what was drawn by their weight: numbers along every dimension."""
    _positions(walk, args[0], out, None)
