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
        self, error: tuple[np.ndarray, np.ndarray], cost: np.ndarray, scales: SeenScales, target: float
    ) -> np.ndarray:
        """Candidates from the best to the worst for a target.

        Args:
            error: mean and standard deviation at N candidates.
            cost: (N,) as shares of the widest network.
            scales: means and deviations of what was measured.
            target: share of the widest network.
        """
        # Weight 0 minimises the error bound alone (the most expensive candidates), weight 1 the cost alone. Bisection finds the
        # weight at which the best candidate costs about `target`:
        #     target 0.60: weight 0.5 gives cost 0.40, too cheap; 0.25 gives 0.70, too expensive; 0.375 gives 0.58, ...
        # With a reference above the mean the maximum turns the other way round, hence the sign test. The weight need not
        # reach the target (the front may have a gap there): the scores nearest to it are kept.
        mean, deviation = error
        bound = mean + self.sign * np.sqrt(self.beta) * deviation
        scaled_error = (bound - scales.error_mean) / scales.error_deviation - self.reference
        scaled_cost = (cost - scales.cost_mean) / scales.cost_deviation - self.reference
        low, high, weight = 0.0, 1.0, 0.5
        nearest, nearest_score = np.inf, np.zeros(len(cost))
        for _ in range(self.rounds):
            weighted_error, weighted_cost = (1 - weight) * scaled_error, weight * scaled_cost
            score = np.maximum(weighted_error, weighted_cost) + _AUGMENT * (weighted_error + weighted_cost)
            miss = cost[np.argmin(score)] - target
            if abs(miss) < nearest:
                nearest, nearest_score = abs(miss), score
            if nearest <= self.tolerance:
                break
            if (miss < 0) == (self.reference <= 0):
                high = weight
            else:
                low = weight
            weight = (low + high) / 2
        return np.argsort(nearest_score, kind="stable")


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
        measured: (M, D) the widths behind `errors` (M,), whose worst bounds what counts; so does the highest of their costs.
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

    # Error (N, 1) and cost (N, 1) are both minimised, and BoTorch maximises: both get the weight -1. A measured width at the
    # reference point itself would add no hypervolume, so the point lies a little beyond the worst of both.
    worst = float(errors.max() + 0.1 * (errors.max() - errors.min()))
    highest_cost = 1.05 * max(1.0, float(cost(measured).max()))
    with quiet():
        model = ModelList(surrogate.model, GenericDeterministicModel(known))
        baseline = torch.from_numpy(measured)
        gain = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            objective=WeightedMCMultiOutputObjective(torch.tensor([-1.0, -1.0], dtype=torch.float64)),
            ref_point=[-worst, -highest_cost],
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
            return torch.cat([gain(chunk) for chunk in points.split(_CHUNK)]).numpy()

    return score
