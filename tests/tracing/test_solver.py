import numpy as np

from anywidth.tracing.labels import Freeze
from anywidth.tracing.solver import solve
from label_walks import names, walk_of


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
