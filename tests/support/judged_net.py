"""A network whose channels pruning criteria judge."""

import numpy as np
import torch
from torch import nn

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """One inner group (a), and a stream that two layers write (stem, c)."""

    def __init__(self, norms: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.c = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
        self.n1, self.n2, self.n3 = (nn.BatchNorm2d(c) if norms else nn.Identity() for c in (6, 5, 6))
        self.head = nn.Linear(6, 4)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, -1, 1)

    def forward(self, x):
        x = torch.relu(self.n1(self.stem(x)))
        x = x + self.n3(self.c(torch.relu(self.n2(self.a(x)))))
        return self.head(x.mean((2, 3)))


def rows(conv) -> np.ndarray:
    """One row per output channel."""
    return conv.weight.detach().double().flatten(1).numpy()
