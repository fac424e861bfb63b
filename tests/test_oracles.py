"""The comparison helpers must fail on wrong answers, or every test built on them is void."""

import pytest
import torch
from torch import nn

from anywidth import Elastic
from oracles import assert_narrow, assert_same_grads, expected_grads, fill_, rand, randomized


def mlp(hidden: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def net() -> Elastic:
    return Elastic(randomized(mlp()), rand(3, 4))


def test_the_right_network_passes():
    assert_narrow(net(), {"0": 4}, mlp(4), rand(3, 4))


def test_wrong_positions_fail():
    with pytest.raises(AssertionError, match="not close"):
        assert_narrow(
            net(), {"0": 4}, mlp(4), rand(3, 4), {"0.weight": {0: [1, 2, 3, 4]}, "0.bias": {0: [1, 2, 3, 4]}}
        )


def test_a_wrong_size_fails():
    with pytest.raises(AssertionError):
        assert_narrow(net(), {"0": 4}, mlp(3), rand(3, 4))


def test_wrong_gradients_fail():
    wide = randomized(mlp())
    compact = fill_(mlp(4), wide, {})
    compact(rand(3, 4)).sum().backward()
    wrong = expected_grads(wide, compact, {})
    for n, p in wide.named_parameters():
        p.grad = wrong[n].clone()
    assert_same_grads(wide, wrong)
    wide[2].weight.grad[0, 5] += 1e-6
    with pytest.raises(AssertionError, match=r"gradient of 2\.weight"):
        assert_same_grads(wide, wrong)
    wide[2].weight.grad = None
    with pytest.raises(AssertionError):
        assert_same_grads(wide, wrong)


def test_gradients_are_put_where_the_weights_came_from():
    wide = randomized(mlp(3))
    where = {"0.weight": {0: [0, 2]}, "0.bias": {0: [0, 2]}, "2.weight": {1: [0, 2]}}
    compact = fill_(mlp(2), wide, where)
    compact(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    grads = expected_grads(wide, compact, where)
    assert grads["2.weight"][:, 1].eq(0).all()
    assert torch.equal(grads["2.weight"][:, [0, 2]], compact[2].weight.grad)
