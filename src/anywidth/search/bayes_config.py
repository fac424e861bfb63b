"""Settings of Joslim's search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from anywidth.cost.budget import Kind
from anywidth.errors import WidthError
from anywidth.search.acquisition import Acquisition

Sampling = Literal["uniform", "pareto"]


@dataclass(frozen=True, kw_only=True)
class BayesConfig:
    """How `Bayes` searches.

    Attributes:
        kind: what a cost is: "macs", "params", or "latency".
        evals: widths to ask for in all; None: no end (during training).
        batch: widths proposed at once, each in the knowledge that those before it are pending.
        low, high: ratios between which every group's width lies.
        acquisition: "optimistic": the lower bound of the error, in a Tchebycheff scalarisation that meets the target;
            "reference": the upper bound, as in the released code, with its priors and warm-up; "ehvi": expected gain in
            hypervolume, without targets.
        beta: squared width of the bounds, in standard deviations.
        reference: ideal point of the scalarisation, in standard deviations from the means (`--baseline` of the released code).
        prior_points: widths asked before there is a model; then follows the widest.
        targets, tolerance, rounds: number of equally spaced cost targets; how near, as a share of the widest network's cost,
            and in how many bisections at most a target is met.
        sampling: targets are drawn "uniform", or "pareto": by the area between neighbours on the present front.
        ard: a length scale for each group.
        history: trials that the model learns from, at most: the front, the latest, and a random sample of the others; trials that were never
            measured come on top where they are more.
        seed: of all choices.

    Raises:
        WidthError: a setting out of its range.
    """

    kind: Kind = "macs"
    evals: int | None = None
    batch: int = 2
    low: float = 0.25
    high: float = 1.0
    acquisition: Acquisition = "optimistic"
    beta: float = 0.1
    reference: float = -3.0
    prior_points: int = 20
    targets: int = 50
    tolerance: float = 0.02
    rounds: int = 10
    sampling: Sampling = "uniform"
    ard: bool = True
    history: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        integer_minima = {"batch": 1, "prior_points": 1, "targets": 2, "rounds": 1, "history": 4, "seed": 0}
        ranges: dict[str, tuple[bool, str]] = {
            name: (
                isinstance(getattr(self, name), int) and getattr(self, name) >= minimum,
                f"a whole number from {minimum}",
            )
            for name, minimum in integer_minima.items()
        }
        ranges |= {
            "evals": (self.evals is None or self.evals > self.prior_points, "more than prior_points"),
            "beta": (0 <= self.beta < math.inf, "a number from 0"),
            "reference": (math.isfinite(self.reference), "a finite number"),
            "tolerance": (0 < self.tolerance < 1, "0 < tolerance < 1"),
            "acquisition": (self.acquisition in get_args(Acquisition), " or ".join(get_args(Acquisition))),
            "sampling": (self.sampling in get_args(Sampling), " or ".join(get_args(Sampling))),
        }
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise WidthError(f"search: {name} = {getattr(self, name)!r}: expected {expected}")
