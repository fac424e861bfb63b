"""Elastic networks of convolutions on small images."""

from torch import nn

from anywidth import Elastic
from oracles import rand, randomized

IMAGE = (2, 3, 6, 6)


def elastic(model: nn.Module, *shape: int, **options) -> Elastic:
    return Elastic(randomized(model), rand(*(shape or IMAGE)), **options)


def readers(net: Elastic, name: str) -> tuple[set[str], set[str]]:
    group = next(g for g in net.space.groups if g.name == name)
    return set(group.writers), set(group.readers)


def in_each(number: int, size: int, kept: int) -> list[int]:
    """The first `kept` of every one of `number` blocks of `size`."""
    return [b * size + i for b in range(number) for i in range(kept)]
