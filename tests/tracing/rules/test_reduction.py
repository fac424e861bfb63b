import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth import Elastic
from oracles import assert_narrow, fill_, groups, rand, randomized
from traced_nets import IMAGE, elastic, readers


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.squeeze, self.excite = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1))))
        return self.head(y * gate.sigmoid())


def test_squeeze_and_excitation_ties_the_gate_to_what_it_scales():
    net = elastic(SqueezeExcite(8, 4))
    assert groups(net) == {"stem": (8, 1), "squeeze": (4, 1)}
    assert readers(net, "stem")[0] == {"stem", "excite"}
    assert_narrow(net, {"stem": 5, "squeeze": 2}, SqueezeExcite(5, 2), rand(*IMAGE))


class Pooled(nn.Module):
    """Something done to the space of images between two convolutions."""

    def __init__(self, operation, width: int):
        super().__init__()
        self.a, self.b, self.operation = nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1), operation

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.operation(self.a(x)))


def unpooled(y: Tensor) -> Tensor:
    pooled, places = F.max_pool2d(y, 2, return_indices=True)
    return F.max_unpool2d(pooled * 2, places, 2)


def warped(y: Tensor) -> Tensor:
    """The same turn for any number of channels."""
    theta = torch.tensor([[0.8, -0.3, 0.1], [0.2, 0.9, 0.0]], dtype=y.dtype).expand(len(y), -1, -1)
    return F.grid_sample(y, F.affine_grid(theta, y.shape, align_corners=False), align_corners=False)


def cut_at_random(y: Tensor) -> Tensor:
    samples = y.detach().mean((2, 3))[..., None].sigmoid().expand(-1, -1, 2)
    return F.fractional_max_pool2d(y, 2, output_size=3, _random_samples=samples.contiguous())


def segments(y: Tensor) -> Tensor:
    return torch.segment_reduce(y, "max", lengths=torch.tensor([1, 1]), axis=0)


@pytest.mark.parametrize(
    "operation", [unpooled, warped, cut_at_random, segments, F.rrelu, lambda y: F.lp_pool2d(y.abs(), 2, 2)]
)
def test_pooling_and_warping_of_each_channel(operation):
    model = Pooled(operation, 8).eval()
    net = Elastic(randomized(model), rand(*IMAGE))
    assert groups(net) == {"a": (8, 1)}
    assert net.space.unknown == ()
    if operation is not F.rrelu:
        assert_narrow(net, {"a": 3}, Pooled(operation, 3), rand(*IMAGE))


def test_dropout_of_whole_channels_draws_for_those_that_are_there():
    net = Elastic(randomized(Pooled(lambda y: F.dropout2d(y, 0.5, True), 8)), rand(*IMAGE))
    assert groups(net) == {"a": (8, 1)}
    compact = Pooled(lambda y: F.dropout2d(y, 0.5, True), 3)
    fill_(compact, net.model, {})
    torch.manual_seed(0)
    out = net.at(net.space.width({"a": 3}))(rand(*IMAGE))
    torch.manual_seed(0)
    torch.testing.assert_close(out, compact(rand(*IMAGE)))
