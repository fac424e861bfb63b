"""From what a trace wrote down to sets of channels that live and die together.

Order of business: equalities at once; tables (heads x dims) lose whole slices of one dimension; sizes that the
model's code computes must come out right at every width, by an attribute that follows or by tying channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anywidth.space.axes import Frozen
from anywidth.tracing.demands import meet_demands_
from anywidth.tracing.labels import FIXED, Block, Freeze, Partition, Projection, Table
from anywidth.tracing.solution import Solution
from anywidth.tracing.trace_state import Walk

FEW_HEADS = 2  # with so few, every head loses the same dims instead


def solve(walk: Walk, frozen: Sequence[Freeze] = ()) -> Solution:
    """Everything the walk and `frozen` demand, solved."""
    ledger = walk.ledger
    solution = Solution(partition=Partition(ledger.count), freezes=[*ledger.freezes])
    _merge_pairs(solution, ledger.pairs)
    for f in frozen:
        solution.freeze(f.labels, f.reason, f.where)
    for block in ledger.blocks:
        if block.tensor is not None and block.tensor not in walk.used:
            solution.freeze(_labels(block), Frozen.UNUSED, block.tensor)
    _decide_tables(solution, ledger.projections, ledger.tables)
    # A demand that ties or freezes channels can decide a table, and a decided table changes what sizes must be. Label sets
    # only ever merge, so this ends; 20 rounds are a safety limit.
    for _ in range(20):
        solution.attributes.clear()
        if not meet_demands_(solution, walk):
            break
        _decide_tables(solution, ledger.projections, ledger.tables)
    return solution


def _merge_pairs(solution: Solution, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Join what the trace said is equal; first what is not equal to label 0, as reasons want to know what was fixed by which event."""
    if not pairs:
        solution.equal = solution.partition.name
        return
    a, b = np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    free = (a != FIXED) & (b != FIXED)
    solution.partition.merge(a[free], b[free])
    solution.equal = solution.partition.name
    solution.partition.fix(np.maximum(a, b)[~free])


def _labels(block: Block) -> np.ndarray:
    return np.arange(block.start, block.start + block.size)


# --- tables -----------------------------------------------------------------------------------------------------


def _elastic(names: np.ndarray) -> list[int]:
    """Dimensions along which the label sets differ."""
    return [d for d in range(names.ndim) if bool((names != names.take([0], axis=d)).any())]


def _lose(partition: Partition, table: np.ndarray, dim: int) -> bool:
    """Make `dim` the one dimension of the table that is elastic."""
    # dim 0 of [[1, 2], [3, 4]] -> 1 = 2, 3 = 4: rows go as a whole.
    index = tuple(slice(None) if d == dim else slice(0, 1) for d in range(table.ndim))
    return partition.merge(table, np.broadcast_to(table[index], table.shape))


def _apply(solution: Solution, p: Projection, table: np.ndarray, target: np.ndarray) -> bool | None:
    """Carry out a projection if its table is decided; None if it is not."""
    elastic = _elastic(solution.partition.name[table])
    if len(elastic) > 1:
        return None
    if elastic and elastic[0] in p.keep:
        return solution.partition.merge(table, np.broadcast_to(target, table.shape))
    return solution.freeze(target.ravel(), "a dimension that keeps its size beside one that narrows", p.where)


def _decide_tables(solution: Solution, projections: Sequence[Projection], tables: Sequence[Table]) -> None:
    projection_arrays = [(p, p.table.numpy(), p.target.numpy()) for p in projections]
    table_arrays = [(t, t.table.numpy()) for t in tables]
    # Safe conclusions first, until none is left; then one choice, and again. The order of the three kinds of choices matters:
    # a contraction says what survives, a projection only what meets what, and a lone table says nothing.
    while True:
        changed = True
        while changed:
            changed = False
            for p, table, target in projection_arrays:
                changed |= bool(_apply(solution, p, table, target))
        if not (
            _decide_contraction(solution, projection_arrays)
            or _decide_any(solution, projection_arrays)
            or _decide_table(solution, table_arrays)
        ):
            return


def _decide_contraction(
    solution: Solution, projection_arrays: list[tuple[Projection, np.ndarray, np.ndarray]]
) -> bool:
    """A sum over one dimension of a table: what survives (the heads) is what may go."""
    # Scores of attention: a table (8 heads, 64 dims) summed over dims, keep = (0,), so whole heads go. With 2 heads or fewer
    # that would leave widths of 1/2 and 1 only: there every head loses the same dims.
    done = False
    for p, table, target in projection_arrays:
        elastic = _elastic(solution.partition.name[table])
        if len(elastic) < 2 or not p.contraction:
            continue
        keep = [d for d in elastic if d in p.keep]
        if len(keep) > 1:
            continue
        gone = [d for d in elastic if d not in p.keep]
        dim = keep[0] if keep else elastic[-1]
        if gone and table.shape[dim] <= FEW_HEADS:
            dim = gone[-1]
        done |= _lose(solution.partition, table, dim)
        _apply(solution, p, table, target)
    return done


def _decide_table(solution: Solution, table_arrays: list[tuple[Table, np.ndarray]]) -> bool:
    for t, table in table_arrays:
        elastic = _elastic(solution.partition.name[table])
        if len(elastic) > 1:
            dim = t.prefer if t.prefer in elastic else elastic[-1]
            assert dim is not None
            return _lose(solution.partition, table, dim)
    return False


def _decide_any(
    solution: Solution, projection_arrays: list[tuple[Projection, np.ndarray, np.ndarray]]
) -> bool:
    """A table that meets labels along one of its dimensions (scores per head): that one may go."""
    for p, table, _ in projection_arrays:
        elastic = _elastic(solution.partition.name[table])
        if len(elastic) > 1:
            keep = [d for d in elastic if d in p.keep]
            return _lose(solution.partition, table, keep[0] if keep else elastic[-1])
    return False


# --- sizes --------------------------------------------------------------------------------------------------------
