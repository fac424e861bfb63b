"""Widths that are searched while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from anywidth.errors import WidthError
from anywidth.seeds import generator
from anywidth.space.channel_space import ChannelSpace
from anywidth.space.width import Width
from anywidth.train.policies.draw import Widths

_DRAWN = 20


class Proposer(Protocol):
    """Chooses the widths that are worth training; `anywidth.search.Bayes` is one."""

    def identity(self) -> dict[str, Any]:
        """Plain data: everything that decides what it proposes, besides the answers."""
        ...

    def to_measure(self) -> Sequence[Width]:
        """Widths whose errors it wants to know, with the weights of the moment."""
        ...

    def measured_(self, errors: Sequence[float]) -> None:
        """The answers, in this order."""
        ...

    def next_(self) -> Sequence[Width]:
        """The next widths to train."""
        ...

    def state(self) -> dict[str, Any]: ...

    def load_(self, state: dict[str, Any]) -> None: ...


class Drawn:
    """A proposer that asks nothing: random widths with a ratio of their own for every group, or those of a pool.

    Args:
        space: of the network.
        count: widths at once.
        low, high: range of the ratios.
        pool: the widths to draw from, instead of any.
        seed: of the widths.

    Source: the modes `--slim` and `--sample_pool` of the code published with arXiv 2007.11752.
    """

    def __init__(
        self,
        space: ChannelSpace,
        *,
        count: int,
        low: float,
        high: float = 1.0,
        pool: Sequence[Width] | None = None,
        seed: int = 0,
    ) -> None:
        if count < 1 or not 0 < low < high <= 1 or (pool is not None and not pool):
            raise WidthError(
                f"drawn widths: expected count >= 1, 0 < low < high <= 1 and no empty pool, got {count}, {low}, {high}"
            )
        self.space, self.count, self.low, self.high, self.seed = space, count, low, high, seed
        self.pool = None if pool is None else [space.check(width) for width in pool]
        self.calls = 0

    def identity(self) -> dict[str, Any]:
        pool = None if self.pool is None else [list(w.kept) for w in self.pool]
        return {"count": self.count, "low": self.low, "high": self.high, "pool": pool, "seed": self.seed}

    def to_measure(self) -> Sequence[Width]:
        return ()

    def measured_(self, errors: Sequence[float]) -> None: ...

    def next_(self) -> Sequence[Width]:
        random = generator(self.seed, self.calls, _DRAWN)
        self.calls += 1
        if self.pool is None:
            return [self.space.sample(random, low=self.low, high=self.high) for _ in range(self.count)]
        indices = torch.randint(len(self.pool), (self.count,), generator=random)
        return [self.pool[int(i)] for i in indices]

    def state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class Joslim:
    """A sandwich whose inner widths are proposed anew every `tau` steps: the widest, the proposed ones, the narrowest.

    Before it proposes, the proposer learns how its earlier widths do with the weights of the moment.

    Args:
        proposer: chooses.
        measure: widths -> errors, the same in every process; changes nothing.
        tau: steps between proposals.
        low: ratio of the narrowest width.

    Raises:
        WidthError: tau < 1.

    Source: Chin et al., arXiv 2007.11752, algorithm 1.
    """

    def __init__(
        self,
        proposer: Proposer,
        measure: Callable[[Sequence[Width]], Sequence[float]],
        *,
        tau: int,
        low: float,
    ) -> None:
        if tau < 1:
            raise WidthError(f"joslim: expected tau >= 1 steps between proposals, got {tau}")
        self.proposer, self.measure, self.tau, self.low = proposer, measure, tau, low
        self.proposed: list[Width] = []

    def __call__(self, generator: torch.Generator, progress: float = 0.0) -> Widths:
        return (1.0, *self.proposed, self.low)

    def identity(self) -> dict[str, Any]:
        return {"tau": self.tau, "low": self.low, **self.proposer.identity()}

    def advance_(self, step: int) -> dict[str, Any] | None:
        """Propose, if it is time.

        Returns:
            What happened, for the log; None between proposals.
        """
        # tau 235: steps 0, 235, 470, ... measure the earlier widths with the weights of the moment, then propose.
        if step % self.tau:
            return None
        asked = self.proposer.to_measure()
        if asked:
            self.proposer.measured_(self.measure(asked))
        self.proposed = list(self.proposer.next_())
        return {"measured": len(asked), "proposed": [list(w.kept) for w in self.proposed]}

    def finish_(self) -> None:
        """Measure with the final weights."""
        if asked := self.proposer.to_measure():
            self.proposer.measured_(self.measure(asked))

    def state(self) -> dict[str, Any]:
        return {"proposed": [w.to_json() for w in self.proposed], "proposer": self.proposer.state()}

    def load_(self, state: dict[str, Any]) -> None:
        self.proposed = [Width.from_json(w) for w in state["proposed"]]
        self.proposer.load_(state["proposer"])
