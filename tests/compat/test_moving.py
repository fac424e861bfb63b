import pytest
import torch
from torch import nn

from anywidth.compat.moving import MOVE, FollowsMoves


class Table(FollowsMoves, nn.Module):
    """A module with a tensor that torch does not know of."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.entries = {"a": torch.ones(2)}

    def moved_(self, function):
        assert self.weight.dtype is function(torch.ones(1)).dtype  # torch's own tensors went before
        self.entries = {name: function(t) for name, t in self.entries.items()}


@pytest.mark.parametrize("move", [nn.Module.double, nn.Module.half, lambda m: m.to(torch.bfloat16)])
def test_other_tensors_follow_a_move_of_the_parent(move):
    parent = nn.Sequential(nn.Linear(2, 2), Table())
    assert move(parent) is parent
    table = parent[1]
    assert table.entries["a"].dtype is table.weight.dtype is parent[0].weight.dtype


def test_a_move_returns_the_module():
    table = Table()
    assert table.double() is table


def test_moves_end_in_this_method(monkeypatch):
    moved = []

    def method(self, function, recurse=True):
        moved.append(function(torch.ones(1)).dtype)
        return self

    monkeypatch.setattr(nn.Linear, MOVE, method, raising=False)
    nn.Sequential(nn.Linear(2, 2)).double()
    nn.Linear(2, 2).half()
    assert moved == [torch.float64, torch.float16]
    assert hasattr(nn.Module, MOVE)
