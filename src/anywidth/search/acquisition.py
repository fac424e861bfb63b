"""Which candidate to measure next: scalarised bounds with a cost target, or the expected gain in hypervolume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from anywidth.search.surrogate import Surrogate, quiet

Acquisition = Literal["optimistic", "reference", "ehvi"]
_AUGMENT = 1e-6
_CHUNK, _SAMPLES = 256, 64


@dataclass(frozen=True, kw_only=True)
class SeenScales:
    """Means and standard deviations of the measured errors, and of the costs as shares of the widest network."""

    error_mean: float
    error_deviation: float
    cost_mean: float
    cost_deviation: float

    @classmethod
    def of(cls, errors: np.ndarray, costs: np.ndarray) -> SeenScales:
        return cls(
            error_mean=float(errors.mean()),
            error_deviation=float(errors.std(ddof=1)) or 1.0,
            cost_mean=float(costs.mean()),
            cost_deviation=float(costs.std(ddof=1)) or 1.0,
        )


@dataclass(frozen=True, kw_only=True)
class Scalarised:
    """Augmented Tchebycheff scalarisation of a bound of the error and of the cost, whose weight meets a cost target.

    Attributes:
        beta: the bound is mean +- sqrt(beta) standard deviations.
        sign: -1 for the lower bound, which goes where little is known; +1 for the upper one, as in the released code.
        reference: ideal point of both objectives, in standard deviations from the mean of what was measured.
        tolerance: of the target, as a share of the cost of the widest network.
        rounds: of the bisection, at most.

    Source: Chin et al., arXiv 2007.11752, equations 5 and 6; Paria et al., arXiv 1805.12168, equation 9.
    """

    beta: float
    sign: float
    reference: float
    tolerance: float
    rounds: int

    def order(
        self, error: tuple[np.ndarray, np.ndarray], cost: np.ndarray, seen: SeenScales, target: float
    ) -> np.ndarray:
        """Candidates from the best to the worst for a target.

        Args:
            error: mean and standard deviation at N candidates.
            cost: (N,) as shares of the widest network.
            seen: scales of what was measured.
            target: share of the widest network.
        """
        mean, deviation = error
        bound = mean + self.sign * np.sqrt(self.beta) * deviation
        a = (bound - seen.error_mean) / seen.error_deviation - self.reference
        b = (cost - seen.cost_mean) / seen.cost_deviation - self.reference
        low, high, weight = 0.0, 1.0, 0.5
        nearest, found = np.inf, np.zeros(len(cost))
        for _ in range(self.rounds):
            one, two = (1 - weight) * a, weight * b
            score = np.maximum(one, two) + _AUGMENT * (one + two)
            miss = cost[np.argmin(score)] - target
            if abs(miss) < nearest:
                nearest, found = abs(miss), score
            if nearest <= self.tolerance:
                break
            if (miss < 0) == (self.reference <= 0):
                high = weight
            else:
                low = weight
            weight = (low + high) / 2
        return np.argsort(found, kind="stable")


def hypervolume_gain(
    surrogate: Surrogate,
    cost: Callable[[np.ndarray], np.ndarray],
    measured: np.ndarray,
    errors: np.ndarray,
    *,
    pending: np.ndarray,
    seed: int,
) -> Callable[[np.ndarray], np.ndarray]:
    """Candidates (N, D) -> logarithm of the expected gain (N,), for noisy measurements.

    Args:
        surrogate: of the error.
        cost: (N, D) -> shares of the widest network.
        measured: (M, D) the widths behind `errors` (M,), whose worst bounds what counts, as the dearest does.
        pending: (P, D) widths that are about to be measured.
        seed: of the samples.

    Source: Ament et al., arXiv 2310.20708 (qLogNEHVI of BoTorch).
    """
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.acquisition.multi_objective.objective import WeightedMCMultiOutputObjective
    from botorch.models import ModelList
    from botorch.models.deterministic import GenericDeterministicModel
    from botorch.sampling.get_sampler import get_sampler

    def known(x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1]).detach().numpy()
        return torch.from_numpy(cost(flat)).reshape(*x.shape[:-1], 1)

    worst = float(errors.max() + 0.1 * (errors.max() - errors.min()))
    dearest = 1.05 * max(1.0, float(cost(measured).max()))
    with quiet():
        model = ModelList(surrogate.model, GenericDeterministicModel(known))
        baseline = torch.from_numpy(measured)
        gain = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            objective=WeightedMCMultiOutputObjective(torch.tensor([-1.0, -1.0], dtype=torch.float64)),
            ref_point=[-worst, -dearest],
            X_baseline=baseline,
            sampler=get_sampler(model.posterior(baseline[:1]), torch.Size([_SAMPLES]), seed=seed),  # pyright: ignore[reportArgumentType]
            prune_baseline=True,
            cache_root=False,
            X_pending=torch.from_numpy(pending) if len(pending) else None,
        )

    @torch.no_grad()
    def score(candidates: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(candidates)[:, None, :]
        with quiet():
            return torch.cat([gain(part) for part in points.split(_CHUNK)]).numpy()

    return score
