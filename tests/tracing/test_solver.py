import numpy as np
import torch

from anywidth.tracing.labels import Freeze
from anywidth.tracing.solution import Solution
from anywidth.tracing.solver import solve
from anywidth.tracing.symbolic_sizes import Attribute, Binary, DimSize, Form
from anywidth.tracing.trace_state import Demand, Walk


def walk_of(*sizes: int) -> tuple[Walk, list[torch.Tensor]]:
    """A walk with a parameter for each size, all of them used."""
    walk = Walk()
    labels = [walk.ledger.fresh(size, tensor=f"w{i}") for i, size in enumerate(sizes)]
    walk.used.update(f"w{i}" for i in range(len(sizes)))
    return walk, labels


def names(solution: Solution, labels: torch.Tensor) -> list[int]:
    return solution.partition.name[labels.numpy()].tolist()


def test_equal_labels_are_one_set_called_by_the_smallest():
    walk, (a, b, c) = walk_of(3, 3, 2)
    walk.ledger.equate(a, b)
    solution = solve(walk)
    assert names(solution, a) == names(solution, b) == a.tolist() == [1, 2, 3]
    assert names(solution, c) == [7, 8]


def test_frozen_labels_and_what_is_equal_to_them_are_fixed():
    walk, (a, b) = walk_of(3, 3)
    walk.ledger.equate(a, b)
    solution = solve(walk, [Freeze(labels=np.array([2]), reason="by name", where="a")])
    assert names(solution, b) == [1, 0, 3]
    assert [(f.reason, f.where) for f in solution.freezes] == [("by name", "a")]


def test_parameters_that_the_forward_does_not_use_are_frozen():
    walk, (a, b) = walk_of(2, 2)
    walk.used.remove("w1")
    solution = solve(walk)
    assert (names(solution, a), names(solution, b)) == ([1, 2], [0, 0])
    assert [f.where for f in solution.freezes] == ["w1"]


def size_of(labels: torch.Tensor) -> DimSize:
    return DimSize(size=len(labels), shadows=(labels,), dim=0)


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


def test_forms_follow_sets_that_are_joined_later():
    walk, (a, b) = walk_of(2, 2)
    solution = solve(walk)
    leaf = Attribute("net", "n", None, 4)
    solution.attributes[leaf] = Form(1, {1: 1, 3: 1})
    assert solution.merge(np.array([1]), np.array([3]))
    assert not solution.merge(np.array([1]), np.array([3]))
    assert solution.attributes[leaf] == Form(1, {1: 2})
    assert solution.known(leaf) == Form(1, {1: 2})
    assert solution.form(size_of(torch.cat([a, b]))) == Form(0, {1: 2, 2: 1, 4: 1})
