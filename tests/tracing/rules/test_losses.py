"""Losses computed in the forward."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, groups, rand, randomized


class Trained(nn.Module):
    """Two layers, and a loss of what they give."""

    def __init__(self, loss, width: int, out: int = 6):
        super().__init__()
        self.a, self.b, self.loss = nn.Linear(3, width), nn.Linear(width, out), loss

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.b(self.a(x)))


CLASSES = torch.tensor([0, 5, 2, 1])
LOSSES = {
    "cross entropy": lambda y: F.cross_entropy(y, CLASSES),
    "cross entropy of each": lambda y: F.cross_entropy(y, CLASSES, reduction="none"),
    "of images": lambda y: F.cross_entropy(
        y[..., None, None].expand(-1, -1, 2, 2), CLASSES[:, None, None].expand(-1, 2, 2)
    ),
    "of soft targets": lambda y: F.cross_entropy(y, torch.full((4, 6), 1 / 6, dtype=y.dtype)),
    "of one sample": lambda y: F.nll_loss(y[0].log_softmax(0), CLASSES[1]),
    "margins": lambda y: F.multi_margin_loss(y, CLASSES),
    "ctc": lambda y: F.ctc_loss(y.log_softmax(-1)[:, None], torch.tensor([[1, 2]]), [4], [2]),
    "squares": lambda y: F.mse_loss(y, torch.ones_like(y) * torch.arange(6)),
    "binary": lambda y: F.binary_cross_entropy_with_logits(
        y, torch.arange(24.0, dtype=y.dtype).reshape(4, 6) / 24
    ),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_classes_and_targets_keep_their_number(loss):
    net = Elastic(randomized(Trained(loss, 8)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert net.space.unknown == ()
    assert_narrow(net, {"a": 3}, Trained(loss, 3), rand(4, 3))


class Matched(nn.Module):
    """Two projections that are to agree."""

    def __init__(self, loss, width: int):
        super().__init__()
        self.a, self.b, self.loss = nn.Linear(3, width), nn.Linear(3, width), loss

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.a(x).sigmoid(), self.b(x).sigmoid())


@pytest.mark.parametrize(
    "loss", [F.mse_loss, F.smooth_l1_loss, F.huber_loss, F.l1_loss, F.binary_cross_entropy]
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_features_that_are_to_agree_are_the_same_channels(loss, reduction):
    def reduced(a: Tensor, b: Tensor) -> Tensor:
        value = loss(a, b, reduction=reduction)
        return value.sum(-1) if reduction == "none" else value

    net = Elastic(randomized(Matched(reduced, 8)), rand(4, 3))
    assert groups(net) == {"a": (8, 1)}
    assert_narrow(net, {"a": 3}, Matched(reduced, 3), rand(4, 3))
