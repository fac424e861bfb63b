"""Rules of operations of other libraries."""

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.tracing import register_rule


@torch.library.custom_op("anywidth_test::scaled", mutates_args=())
def scaled(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale.reshape(1, -1, 1, 1)


@torch.library.custom_op("anywidth_test::unknown", mutates_args=())
def unknown(x: Tensor) -> Tensor:
    return x + 1


@torch.library.custom_op("anywidth_test::flip", mutates_args=())
def flip(x: Tensor, dims: int) -> Tensor:
    """Named as an operation of torch, and something else: mixes channels."""
    return x.roll(1, 1)


@register_rule("anywidth_test::scaled")
def _scaled(walk, func, args, kwargs, out):
    x, scale = args
    # (N, C, H, W) times (C,): the labels of the scale meet those of the channels.
    shape = [1, x.shape[1], 1, 1]
    walk.set(
        out, walk.together(walk.shadows(x), x.shape, [s.reshape(shape) for s in walk.shadows(scale)], shape)
    )


class Net(nn.Module):
    def __init__(self, operation) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x), self.scale))


def test_a_registered_rule_lets_channels_through():
    net = aw.Elastic(Net(lambda x, scale: scaled(x, scale)), torch.randn(1, 3, 4, 4))
    assert [g.size for g in net.space.groups] == [8]
    x = torch.randn(2, 3, 4, 4)
    wide, w = net.model, net.model.first.weight
    hidden = torch.nn.functional.conv2d(x, w[:4], wide.first.bias[:4]) * wide.scale[:4].reshape(1, -1, 1, 1)
    expected = torch.nn.functional.conv2d(hidden, wide.last.weight[:, :4], wide.last.bias)
    torch.testing.assert_close(net.at(0.5)(x), expected)


@pytest.mark.parametrize("operation", [lambda x, s: unknown(x) * s.sum(), lambda x, s: flip(x, 1) * s.sum()])
def test_without_a_rule_what_it_touches_is_frozen_and_named(operation):
    net = aw.Elastic(Net(operation), torch.randn(1, 3, 4, 4))
    assert not net.space.groups
    assert "anywidth_test" in str(net.space) or "unknown" in str(net.space) or "flip" in str(net.space)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("scaled", "expected NAMESPACE::NAME"),
        ("aten::add", "operations of aten have rules here"),
        ("anywidth_test::scaled", "there is a rule already, _scaled"),
        ("anywidth_test::scald", "there is no such operation; import what defines it before its rule"),
    ],
)
def test_names_that_cannot_be(operation, message):
    with pytest.raises(ValueError, match=message):
        register_rule(operation)(lambda *arguments: None)
