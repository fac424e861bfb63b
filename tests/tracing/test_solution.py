import numpy as np
import torch

from anywidth.tracing.labels import Partition
from anywidth.tracing.solution import Solution
from anywidth.tracing.solver import solve
from anywidth.tracing.symbolic_sizes import Attribute, DimSize, Form
from label_walks import size_of, walk_of


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


def test_frozen_labels_join_the_fixed_ones_and_the_reason_is_kept_once():
    solution = Solution(partition=Partition(5))
    assert solution.freeze(np.array([2, 4]), "by name", "a")
    assert not solution.freeze(np.array([4]), "again", "b")
    assert solution.partition.name.tolist() == [0, 1, 0, 3, 0]
    assert [(f.labels.tolist(), f.reason, f.where) for f in solution.freezes] == [([2, 4], "by name", "a")]


def test_a_size_of_frozen_channels_is_a_number():
    solution = Solution(partition=Partition(4))
    size = size_of(torch.tensor([1, 2, 3]))
    assert solution.form(size) == Form(0, {1: 1, 2: 1, 3: 1})
    solution.freeze(np.array([1, 3]), "by name", "a")
    assert solution.form(size) == Form(2, {2: 1})


def test_two_channel_axes_of_one_dimension_must_agree():
    solution = Solution(partition=Partition(5))
    size = DimSize(size=2, shadows=(torch.tensor([1, 2]), torch.tensor([3, 4])), dim=0)
    assert solution.form(size) is None
    solution.merge(np.array([1, 2]), np.array([3, 4]))
    assert solution.form(size) == Form(0, {1: 1, 2: 1})


def test_an_attribute_that_nothing_binds_is_not_known():
    assert Solution(partition=Partition(2)).known(Attribute("net", "n", None, 4)) is None
