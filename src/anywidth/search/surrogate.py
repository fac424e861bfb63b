"""A Gaussian process over widths: what a measurement at a new width would be, and how sure that is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch

from anywidth.errors import AnywidthError

Prior = Literal["scaled", "published"]
_CHUNK = 1024


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings about data that are not standardised (the model does that) and about added jitter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def require_botorch() -> Any:
    """The package botorch.

    Raises:
        AnywidthError: it is not installed.
    """
    try:
        with quiet():
            import botorch
    except ImportError:
        raise AnywidthError(
            "Bayesian search needs the package botorch: pip install 'anywidth[search]'"
        ) from None
    return botorch


class Surrogate:
    """An exact Gaussian process with a Matern-5/2 kernel, its hyperparameters at the maximum of their posterior.

    Args:
        x: (N, D) float64 in [0, 1].
        y: (N,) measurements; standardised inside.
        ard: a length scale for each of the D dimensions, instead of one.
        prior: of the kernel: "scaled", whose length scales grow with the root of D (Hvarfner et al., arXiv
            2402.02229), or "published", Gamma(3, 6) on the length scale and Gamma(2, 0.15) on the output scale.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, *, ard: bool = False, prior: Prior = "scaled") -> None:
        require_botorch()
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import SingleTaskGP
        from gpytorch.mlls import ExactMarginalLogLikelihood

        inputs, values = torch.from_numpy(x), torch.from_numpy(y)[:, None]
        with quiet():
            self.model = SingleTaskGP(inputs, values, covar_module=_kernel(x.shape[1], ard, prior))
            fit_gpytorch_mll(
                ExactMarginalLogLikelihood(self.model.likelihood, self.model),
                optimizer_kwargs={"options": {"maxiter": 75}},
            )
        self.model.eval()

    @torch.no_grad()
    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, D) -> mean (M,) and standard deviation (M,) of the function, without the noise of a measurement."""
        posteriors = [
            self.model.posterior(torch.from_numpy(x[i : i + _CHUNK])) for i in range(0, len(x), _CHUNK)
        ]
        means = torch.cat([p.mean[:, 0] for p in posteriors])
        deviations = torch.cat([p.variance[:, 0] for p in posteriors]).clamp_min(0).sqrt()
        return means.numpy(), deviations.numpy()

    @torch.no_grad()
    def believe_(self, x: np.ndarray) -> None:
        """Take (M, D) widths whose answers are pending for known: as the mean says.

        Source: the "kriging believer" of Ginsbourger et al. 2010, "Kriging is well-suited to parallelize optimization".
        """
        points = torch.from_numpy(x)
        with quiet():
            mean = self.model.posterior(points).mean
            self.model = self.model.condition_on_observations(points, mean)


def _kernel(dims: int, ard: bool, prior: Prior) -> Any:
    from gpytorch.constraints import GreaterThan
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.priors import GammaPrior, LogNormalPrior

    # "scaled": the median length scale is e^sqrt(2) sqrt(D), so that two random points of the unit cube, whose distance grows
    # with sqrt(D), stay correlated in hundreds of dimensions; with a fixed prior the model would fall back to the mean.
    count = dims if ard else None
    if prior == "published":
        matern = MaternKernel(nu=2.5, ard_num_dims=count, lengthscale_prior=GammaPrior(3.0, 6.0))
        return ScaleKernel(matern, outputscale_prior=GammaPrior(2.0, 0.15)).double()
    scaled = LogNormalPrior(loc=2**0.5 + 0.5 * math.log(dims), scale=3**0.5)
    bound = GreaterThan(0.025, transform=None, initial_value=scaled.mode)  # pyright: ignore[reportArgumentType]
    return MaternKernel(
        nu=2.5, ard_num_dims=count, lengthscale_prior=scaled, lengthscale_constraint=bound
    ).double()
