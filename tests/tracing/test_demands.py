import torch

from anywidth.tracing.demands import meet_demands_
from anywidth.tracing.labels import Partition
from anywidth.tracing.solution import Solution
from anywidth.tracing.solver import solve
from anywidth.tracing.symbolic_sizes import Attribute, Binary, Form
from anywidth.tracing.trace_state import Demand, Walk
from label_walks import names, size_of, walk_of


def test_an_attribute_follows_the_size_that_it_must_be():
    """The code says `2 * width`, and eight channels of two equal halves are needed: `width` is one half."""
    walk, (a,) = walk_of(8)
    walk.ledger.equate(a[:4], a[4:])
    width = Attribute("net", "width", None, 4)
    walk.demands.append(
        Demand(expression=Binary("*", 2, width), needed=size_of(a), where="view in net", what="a size")
    )
    assert solve(walk).attributes == {width: Form(0, {1: 1, 2: 1, 3: 1, 4: 1})}


def test_a_number_in_the_code_freezes_what_it_counts():
    walk, (a, b) = walk_of(3, 2)
    walk.demands.append(Demand(expression=3, needed=size_of(a), where="view in net", what="a size"))
    solution = solve(walk)
    assert (names(solution, a), names(solution, b)) == ([0, 0, 0], [4, 5])
    assert [(f.reason, f.where) for f in solution.freezes] == [("a size cannot follow", "view in net")]


def met(walk: Walk) -> tuple[Solution, bool]:
    solution = Solution(partition=Partition(walk.ledger.count))
    return solution, meet_demands_(solution, walk)


def demand(expression, needed: torch.Tensor) -> Demand:
    return Demand(expression=expression, needed=size_of(needed), where="view in net", what="a size")


def test_the_demand_with_one_unknown_binds_it_for_the_one_with_two():
    """`heads * width` channels are needed and `heads` are two: `width` follows, whichever demand comes first."""
    walk, (a, b) = walk_of(2, 6)
    walk.ledger.freeze(a, "by name", "a")
    heads, width = Attribute("net", "heads", None, 2), Attribute("net", "width", None, 3)
    walk.demands += [demand(Binary("*", heads, width), b), demand(heads, a)]
    solution = Solution(partition=Partition(walk.ledger.count))
    solution.freeze(a.numpy(), "by name", "a")
    solution.merge(b[:3].numpy(), b[3:].numpy())
    assert not meet_demands_(solution, walk)
    assert solution.attributes == {heads: Form(2), width: Form(0, {3: 1, 4: 1, 5: 1})}


def test_two_sizes_that_the_code_takes_for_equal_narrow_in_step():
    """The code states the channels of y where those of x are needed: they go in pairs."""
    walk, (x, y) = walk_of(3, 3)
    walk.demands.append(demand(size_of(y), x))
    solution, changed = met(walk)
    assert changed
    assert names(solution, x) == names(solution, y) == [1, 2, 3]
    assert solution.freezes == []


def test_a_size_that_can_be_no_other_is_frozen_with_what_it_is_computed_from():
    """`len(y) + 1` is needed of x: no pairing of three channels with two gives that at every width."""
    walk, (x, y) = walk_of(3, 2)
    walk.demands.append(demand(Binary("+", size_of(y), 1), x))
    solution, changed = met(walk)
    assert changed
    assert names(solution, x) == [0, 0, 0]
    assert names(solution, y) == [0, 0]


def test_an_attribute_that_is_compared_with_a_size_follows_it():
    walk, (a,) = walk_of(3)
    width = Attribute("net", "width", None, 3)
    walk.compared.append((size_of(a), width))
    solution, changed = met(walk)
    assert not changed
    assert solution.attributes == {width: Form(0, {1: 1, 2: 1, 3: 1})}
