"""Traces made by hand: labels of a few parameters, and what the solver says of them."""

import torch

from anywidth.tracing.solution import Solution
from anywidth.tracing.symbolic_sizes import DimSize
from anywidth.tracing.trace_state import Walk


def walk_of(*sizes: int) -> tuple[Walk, list[torch.Tensor]]:
    """A walk with a parameter for each size, all of them used."""
    walk = Walk()
    labels = [walk.ledger.fresh(size, tensor=f"w{i}") for i, size in enumerate(sizes)]
    walk.used.update(f"w{i}" for i in range(len(sizes)))
    return walk, labels


def names(solution: Solution, labels: torch.Tensor) -> list[int]:
    """Of the set that each label is in."""
    return solution.partition.name[labels.numpy()].tolist()


def size_of(labels: torch.Tensor) -> DimSize:
    """The number of these channels, as the code asks for it."""
    return DimSize(size=len(labels), shadows=(labels,), dim=0)
