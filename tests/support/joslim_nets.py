"""Joslim's networks, and whether they compute one function at a width."""

from functools import cache, partial

import torch
from torch import nn

from anywidth import Elastic
from anywidth.interop.joslim import new
from oracles import masked


@cache
def published(name: str) -> Elastic:
    return new(name)


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.rand(count, 3, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def assert_one_function(net: Elastic, width, x: torch.Tensor, cut: tuple[int, ...] = ()) -> None:
    """View, copy and masked wide network compute the same, with the statistics of the batch.

    Args:
        cut: channels of stages whose outputs are masked too, for streams with fewer than the stage before.
    """
    for m in net.train().modules():
        if isinstance(m, nn.Dropout):
            m.eval()
    wide = masked(net, width)
    for stage, channels in zip(wide.features[1:], cut, strict=False):
        for block in (stage.head, *stage.tail):
            block.register_forward_hook(partial(first, channels))
    with torch.no_grad():
        expected = wide(x)
        for network in (net.at(width), net.extract(width)):
            assert float((network(x) - expected).norm() / expected.norm()) < 1e-11


def first(channels: int, module: nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
    out[:, channels:] = 0
    return out
