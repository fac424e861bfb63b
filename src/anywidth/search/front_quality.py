"""How good a front is: hypervolume, and the area under the curve of errors against costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anywidth.errors import WidthError


def hypervolume(costs: Sequence[float], errors: Sequence[float], *, reference: tuple[float, float]) -> float:
    """Area that the points dominate below and left of the reference point; both objectives are minimised.

    Args:
        costs, errors: N points, in any order; dominated ones add nothing.
        reference: (cost, error) that every point should beat; those that do not add nothing.
    """
    # Points (1, 0.5) (2, 0.3), reference (4, 1): strips (4 - 1) (1 - 0.5) + (4 - 2) (0.5 - 0.3) = 1.9.
    area, best = 0.0, reference[1]
    for cost, error in sorted(zip(costs, errors, strict=True)):
        if cost < reference[0] and error < best:
            area += (reference[0] - cost) * (best - error)
            best = error
    return area


def area_under(
    costs: Sequence[float], errors: Sequence[float], *, between: tuple[float, float] | None = None
) -> float:
    """Area under the straight lines that join the points, divided by the range of costs: the mean error over costs.

    Args:
        costs, errors: N >= 2 points with different costs.
        between: range of costs, inside that of the points; by default theirs.

    Raises:
        WidthError: fewer points, or a range outside theirs.
    """
    # Points (1, 0.5) (2, 0.3) (4, 0.1): trapezoids 0.4 + 0.4 over the range 3: 0.267.
    order = np.argsort(costs, kind="stable")
    x, y = np.asarray(costs, float)[order], np.asarray(errors, float)[order]
    low, high = (x[0], x[-1]) if between is None else between
    if len(x) < 2 or not x[0] <= low < high <= x[-1]:
        raise WidthError(
            f"area under a curve: needs two costs at least, and a range within {x.min():g}..{x.max():g}; got {low:g}..{high:g}"
        )
    inside = (x > low) & (x < high)
    ends = np.interp([low, high], x, y)
    grid = np.concatenate([[low], x[inside], [high]])
    values = np.concatenate([ends[:1], y[inside], ends[1:]])
    return float(np.trapezoid(values, grid) / (high - low))
