"""Small networks whose views are compared with copies made now."""

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from anywidth import Elastic
from oracles import TIGHT, rand, randomized

X = rand(5, 6)


def mlp(**options) -> Elastic:
    model = nn.Sequential(
        nn.Linear(6, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2)
    )
    return Elastic(randomized(model), X, **{"widths": [0.5, 1.0], **options})


def same(net: Elastic, x: Tensor = X, widths=(0.25, 0.5, 1.0)) -> None:
    """Views compute what copies made now compute."""
    for w in widths:
        torch.manual_seed(0)
        mine = net.at(w)(x)
        torch.manual_seed(0)
        assert_close(mine, net.extract(w)(x), **TIGHT)


class Packed(nn.Module):
    """A packed layer: at narrow widths its weight is gathered."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.width, self.qkv, self.o = width, nn.Linear(6, 3 * width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(self.width, dim=-1)
        return self.o(torch.tanh(q) * k + v)


def packed() -> Elastic:
    return Elastic(randomized(Packed()), X)
