"""One operation between two linear layers."""

from torch import Tensor, nn


class Through(nn.Module):
    """One operation between two linear layers."""

    def __init__(self, operation, width: int = 8):
        super().__init__()
        self.a, self.b, self.operation = nn.Linear(3, width), nn.Linear(width, 2), operation

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.operation(self.a(x)))
