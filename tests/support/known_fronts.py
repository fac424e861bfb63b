"""A problem of widths whose front is known."""

import numpy as np

from anywidth.cost.budget import ClosedForm
from anywidth.search import hypervolume

GROUPS, UNITS = 8, 64


class Problem:
    """error = 0.1 + sum a_i (1 / s_i - 1), cost = sum p_i s_i, for shares s: the front is s_i ~ sqrt(a_i / p_i), clipped."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.weights, self.prices = (
            0.3 * random.dirichlet(np.ones(GROUPS)),
            random.dirichlet(3 * np.ones(GROUPS)),
        )
        self.costs = ClosedForm(lambda rows: np.asarray(rows) / UNITS @ self.prices)

    def errors(self, widths):
        shares = np.array([w.kept for w in widths]) / UNITS
        return ((1 / shares - 1) @ self.weights + 0.1).tolist()

    def best(self) -> float:
        """Hypervolume of the known front."""
        points = []
        for price in np.exp(np.linspace(-7, 7, 2000)):
            shares = np.clip(np.sqrt(self.weights / (price * self.prices)), 0.25, 1)
            points.append((shares @ self.prices, float((1 / shares - 1) @ self.weights + 0.1)))
        return hypervolume(*zip(*points, strict=True), reference=(1.01, 1.0))
