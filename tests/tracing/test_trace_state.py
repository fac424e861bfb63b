import torch
from torch import Tensor, nn

from anywidth.tracing.trace import trace


def mlp(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def test_the_walk_remembers_contractions():
    walk = trace(mlp(), torch.randn(4, 3))
    assert [c.module for c in walk.contractions] == ["0", "2"]


def test_many_picks_from_one_table_are_noted_once():
    class Picked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 1)

        def forward(self, x: Tensor) -> Tensor:
            table = self.conv(x).view(len(x), 4, 3, -1).permute(0, 3, 1, 2).reshape(len(x), -1, 3)
            return sum((table[..., k] for k in range(3)), torch.zeros(()))

    walk = trace(Picked(), torch.zeros(1, 3, 16, 16))
    assert sum(a.size for a, _ in walk.ledger.pairs) < 2 * 3 * 1024 + 200
