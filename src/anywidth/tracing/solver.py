"""From what a trace wrote down to sets of channels that live and die together.

Order of business: equalities at once; tables (heads x dims) lose whole slices of one dimension; sizes that the
model's code computes must come out right at every width, by an attribute that follows or by tying channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from anywidth.tracing.labels import FIXED, Block, Freeze, Partition, Projection, Table
from anywidth.tracing.symbolic_sizes import (
    Attribute,
    Binary,
    DimSize,
    Expression,
    Form,
    evaluate,
    leaves,
    solve_for,
)
from anywidth.tracing.trace_state import Demand, Walk

FEW_HEADS = 2  # with so few, every head loses the same dims instead


@dataclass
class Solution:
    """Label sets, the attributes that follow them, and why labels were frozen."""

    partition: Partition
    attributes: dict[Attribute, Form] = field(default_factory=dict)
    sources: dict[Attribute, DimSize] = field(default_factory=dict)
    freezes: list[Freeze] = field(default_factory=list)

    def form(self, size: DimSize) -> Form | None:
        """The size in terms of label sets; None where two channel axes share the dimension and disagree."""
        forms = []
        for shadow, vector in zip(size.shadows, size.vectors(), strict=True):
            names = self.partition.name[vector]
            beside = any(n > 1 for d, n in enumerate(shadow.shape) if d != size.dim)
            forms.append(Form(size.size) if beside and bool((names == names[0]).all()) else Form.of(names))
        return forms[0] if all(f == forms[0] for f in forms) else None

    def known(self, leaf: DimSize | Attribute) -> Form | None:
        return self.form(leaf) if isinstance(leaf, DimSize) else self.attributes.get(leaf)

    def merge(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Join label sets; forms found earlier follow."""
        changed = self.partition.merge(a, b)
        if changed:
            self.attributes = {k: f.renamed(self.partition.name) for k, f in self.attributes.items()}
        return changed

    def freeze(self, labels: np.ndarray, reason: str, where: str) -> bool:
        changed = self.merge(labels, np.zeros_like(labels))
        if changed:
            self.freezes.append(Freeze(labels=labels, reason=reason, where=where))
        return changed


def solve(walk: Walk, frozen: Sequence[Freeze] = ()) -> Solution:
    """Everything the walk and `frozen` demand, solved."""
    ledger = walk.ledger
    solution = Solution(partition=Partition(ledger.count), freezes=[*ledger.freezes])
    pairs = ledger.pairs
    if pairs:
        solution.partition.merge(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))
    for f in frozen:
        solution.freeze(f.labels, f.reason, f.where)
    for block in ledger.blocks:
        if block.tensor is not None and block.tensor not in walk.used:
            solution.freeze(_labels(block), "not used by the traced forward", block.tensor)
    _decide_tables(solution, ledger.projections, ledger.tables)
    # A demand that ties or freezes channels can decide a table, and a decided table changes what sizes must be. Label sets
    # only ever merge, so this ends; 20 rounds are a safety limit.
    for _ in range(20):
        solution.attributes.clear()
        if not _meet_demands(solution, walk):
            break
        _decide_tables(solution, ledger.projections, ledger.tables)
    return solution


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


def _needed(solution: Solution, demand: Demand) -> Form | None:
    return Form(demand.needed) if isinstance(demand.needed, int) else solution.form(demand.needed)


def _meet_demands(solution: Solution, walk: Walk) -> bool:
    """Bind attributes, tie or freeze channels until every demand holds; True if label sets changed."""
    # Fewest unknowns first: `num_heads` alone binds the attribute, after which `num_heads * head_dim` has one unknown left.
    waiting = list(walk.demands)
    changed = False
    for unbound in (1, 2, 3):
        later = []
        for demand in waiting:
            state = _meet(solution, demand, unbound)
            if state is None:
                later.append(demand)
            else:
                changed |= state
        waiting = later
    for demand in waiting:
        changed |= _give_up(solution, demand)
    for pair in walk.compared:
        _bind_compared(solution, pair)
    return changed


def _meet(solution: Solution, demand: Demand, max_unknown: int) -> bool | None:
    """True/False: met, with or without a change of label sets; None: too many unknown attributes yet."""
    needed = _needed(solution, demand)
    if needed is None:
        return _give_up(solution, demand)
    unknown = list(
        dict.fromkeys(
            a for a in leaves(demand.expression) if isinstance(a, Attribute) and a not in solution.attributes
        )
    )
    if len(unknown) > max_unknown:
        return None
    if unknown:
        return _bind(solution, demand, needed, unknown)
    stated = evaluate(demand.expression, solution.known)
    if stated is not None and stated == needed:
        return False
    return _tie(solution, demand)


def _bind(solution: Solution, demand: Demand, needed: Form, unknown: list[Attribute]) -> bool:
    """Let one attribute follow the demand, all others constant."""
    for attribute in unknown:
        constants = {a: Form(a.value) for a in unknown if a != attribute}

        def known(leaf: DimSize | Attribute, constants: dict[Attribute, Form] = constants) -> Form | None:
            return (
                constants[leaf] if isinstance(leaf, Attribute) and leaf in constants else solution.known(leaf)
            )

        form = solve_for(demand.expression, attribute, needed, known)
        if form is not None and min([form.constant, *form.terms.values()]) >= 0:
            solution.attributes[attribute] = form
            solution.attributes.update(constants)
            if isinstance(demand.needed, DimSize):
                solution.sources.setdefault(attribute, demand.needed)
            return False
    return _tie(solution, demand)


def _tie(solution: Solution, demand: Demand) -> bool:
    """The code computes this size from others: let two of them narrow in step, so that the sum comes out right."""
    # Needed are the channels of x, and the code states those of y: no attribute can follow, but if channels of x and y go in
    # pairs, the two sizes are equal at every width. Of all pairings that meet the demand, the one with most units left wins.
    sizes = [] if isinstance(demand.needed, int) else [demand.needed]
    for leaf in leaves(demand.expression):
        source = leaf if isinstance(leaf, DimSize) else solution.sources.get(leaf)
        sizes += [] if source is None else [source]
    known = [v for size in sizes for v in size.vectors() if FIXED not in solution.partition.name[v]]
    best: tuple[int, np.ndarray, np.ndarray] | None = None
    for i, vector in enumerate(known):
        for other_vector in known[i + 1 :]:
            for a, b in _matchings(vector, other_vector):
                units = _units_if_tied(solution, demand, a, b)
                if units > (best[0] if best else 1):
                    best = (units, a, b)
    if best is not None and solution.merge(best[1], best[2]):
        return True
    return _give_up(solution, demand)


def _units_if_tied(solution: Solution, demand: Demand, a: np.ndarray, b: np.ndarray) -> int:
    """How many sets of channels remain if `a[i]` joins `b[i]`; 0 if the demand is not met by that."""
    partition = Partition(0)
    partition.name = solution.partition.name
    partition.merge(a, b)
    trial = Solution(
        partition=partition, attributes={k: f.renamed(partition.name) for k, f in solution.attributes.items()}
    )
    stated, needed = evaluate(demand.expression, trial.known), _needed(trial, demand)
    return int(np.unique(partition.name[a]).size) if stated is not None and stated == needed else 0


def _matchings(source: np.ndarray, target: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Ways to pair the channels of two sizes in proportion: in blocks, or cyclically."""
    # 1 2 3 4 5 6 with 7 8 9: in blocks 7 7 8 8 9 9, cyclically 7 8 9 7 8 9.
    long, short = (source, target) if source.size >= target.size else (target, source)
    position = np.arange(long.size)
    yield long, short[position * short.size // long.size]
    yield long, short[position % short.size]


def _give_up(solution: Solution, demand: Demand) -> bool:
    """A size that cannot follow: what it counts, and what it is computed from, stays."""
    sizes = [leaf for leaf in leaves(demand.expression) if isinstance(leaf, DimSize)]
    if isinstance(demand.needed, DimSize):
        sizes = [demand.needed] if not sizes else [demand.needed, *sizes]
    changed = False
    for size in sizes:
        for shadow in size.shadows:
            changed |= solution.freeze(shadow.numpy().ravel(), f"{demand.what} cannot follow", demand.where)
    return changed


def _bind_compared(solution: Solution, pair: tuple[Expression, Expression]) -> None:
    """The code checked that two numbers are equal: an attribute nobody else binds follows the other side."""
    for attribute, counterpart in (pair, pair[::-1]):
        if (
            isinstance(attribute, Attribute)
            and attribute not in solution.attributes
            and not isinstance(counterpart, Binary | Attribute)
        ):
            form = evaluate(counterpart, solution.known)
            if form is not None and form.terms:
                solution.attributes[attribute] = form
