"""Sizes that the model computes come out right at every width: by an attribute that follows, or by tying channels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from anywidth.tracing.labels import FIXED, Partition
from anywidth.tracing.solution import Solution
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


def _needed(solution: Solution, demand: Demand) -> Form | None:
    return Form(demand.needed) if isinstance(demand.needed, int) else solution.form(demand.needed)


def meet_demands_(solution: Solution, walk: Walk) -> bool:
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
