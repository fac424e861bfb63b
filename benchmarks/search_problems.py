"""Searches on problems whose fronts are known: hypervolumes at equal numbers of evaluations.

    python benchmarks/search_problems.py                # ten seeds, about half an hour on a CPU core

branin-currin: BoTorch's problem of two dimensions; Currin's function is the cost, which is known, Branin's the error.
widths: eight groups of 64 channels, error = 0.1 + sum a_i (1 / s_i - 1) and cost = sum p_i s_i for shares s_i and random a, p. The front
is s_i ~ sqrt(a_i / p_i), clipped to [0.25, 1], so its hypervolume is known; that of uniform widths is given beside it.

The table goes to OUT/results.md, numbers to OUT/results/search_problems.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import anywidth as aw
from anywidth.cost.budget import ClosedForm
from anywidth.search import Bayes, Random, hypervolume, run_search
from results import publish

METHODS = ("random", "reference", "optimistic", "ehvi")


class Problem:
    """A network whose groups are the dimensions, with costs and errors that are made up."""

    name: str
    evals: int
    low: float
    reference: tuple[float, float]
    best: float | None = None
    uniform: float | None = None

    def __init__(self, groups: int, units: int) -> None:
        layers: list[nn.Module] = []
        for i in range(groups):
            layers += [nn.Linear(units if i else 3, units), nn.ReLU()]
        self.net = aw.Elastic(nn.Sequential(*layers, nn.Linear(units, 2)), torch.zeros(1, 3))
        self.units = units
        self.costs = ClosedForm(self.cost)

    def cost(self, rows: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def errors(self, widths: Sequence[aw.Width]) -> list[float]:
        raise NotImplementedError


class BraninCurrin(Problem):
    name, evals, low, reference = "branin-currin", 40, 0.001, (6.0, 18.0)  # the reference point is BoTorch's

    def __init__(self, seed: int) -> None:
        from botorch.test_functions.multi_objective import BraninCurrin as Function

        super().__init__(2, 1000)
        self.function = Function()

    def values(self, rows: Any) -> np.ndarray:
        return self.function(torch.from_numpy((np.asarray(rows) - 1) / (self.units - 1))).numpy()

    def cost(self, rows: np.ndarray) -> np.ndarray:
        return self.values(rows)[:, 1]

    def errors(self, widths: Sequence[aw.Width]) -> list[float]:
        return self.values([w.kept for w in widths])[:, 0].tolist()


class Widths(Problem):
    name, evals, low, reference = "widths", 60, 0.25, (1.01, 1.0)

    def __init__(self, seed: int) -> None:
        groups = 8
        random = np.random.default_rng(1000 + seed)
        self.weights, self.prices = (
            0.3 * random.dirichlet(np.ones(groups)),
            random.dirichlet(3 * np.ones(groups)),
        )
        super().__init__(groups, 64)
        best = [
            np.clip(np.sqrt(self.weights / (p * self.prices)), 0.25, 1)
            for p in np.exp(np.linspace(-7, 7, 4000))
        ]
        self.best = self._volume(np.array(best))
        self.uniform = self._volume(np.linspace(0.25, 1, 400)[:, None].repeat(groups, 1))

    def _volume(self, shares: np.ndarray) -> float:
        return hypervolume(list(shares @ self.prices), list(self._error(shares)), reference=self.reference)

    def _error(self, shares: np.ndarray) -> np.ndarray:
        return (1 / shares - 1) @ self.weights + 0.1

    def cost(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows) / self.units @ self.prices

    def errors(self, widths: Sequence[aw.Width]) -> list[float]:
        return self._error(np.array([w.kept for w in widths]) / self.units).tolist()


def one(problem: Problem, method: str, seed: int) -> dict[str, float]:
    prior = problem.evals // 5
    if method == "random":
        searcher: Any = Random(problem.net, evals=problem.evals, low=problem.low, seed=seed)
    else:
        searcher = Bayes(
            problem.net, costs=problem.costs, evals=problem.evals, low=problem.low, acquisition=method,  # pyright: ignore[reportArgumentType]
            prior_points=prior, seed=seed,
        )  # fmt: skip
    start = time.perf_counter()
    front = run_search(searcher, problem.errors, problem.costs)
    seconds = time.perf_counter() - start
    late = [np.ptp(np.array(t.width.kept) / problem.units) for t in searcher.trials[prior + 1 :]]
    return {
        "hypervolume": hypervolume(
            [m.cost for m in front.members], [m.error for m in front.members], reference=problem.reference
        ),
        "spread": float(np.median(late)),
        "seconds": seconds / problem.evals,
    }


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        f"Hypervolume at equal numbers of evaluations, mean ± standard deviation over seeds; in how many seeds the optimistic search is above; "
        f"median spread (largest minus smallest share) of the proposed widths. torch {torch.__version__}, one CPU thread.",
        "",
        "| problem | evaluations | method | hypervolume | optimistic is above in | spread | seconds for a proposal |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name, rows in found.items():
        for method in METHODS:
            mine = [r[method] for r in rows]
            above = sum(r["optimistic"]["hypervolume"] > r[method]["hypervolume"] for r in rows)
            values = [m["hypervolume"] for m in mine]
            lines.append(
                f"| {name} | {rows[0]['evals']} | {method} | {statistics.mean(values):.4f} ± {statistics.pstdev(values):.4f} | "
                f"{'' if method == 'optimistic' else f'{above} of {len(rows)}'} | {statistics.mean(m['spread'] for m in mine):.2f} | "
                f"{statistics.mean(m['seconds'] for m in mine):.2f} |"
            )
        for what in ("best", "uniform"):
            if rows[0][what] is not None:
                values = [r[what] for r in rows]
                label = "the known front" if what == "best" else "all uniform widths"
                lines.append(
                    f"| {name} | | {label} | {statistics.mean(values):.4f} ± {statistics.pstdev(values):.4f} | | | |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--seeds", type=int, default=10)
    where = parser.parse_args()
    torch.set_num_threads(1)
    problems: list[Callable[[int], Problem]] = [BraninCurrin, Widths]
    found: dict[str, list[dict[str, Any]]] = {}
    for make in problems:
        for seed in range(where.seeds):
            problem = make(seed)
            row: dict[str, Any] = {"evals": problem.evals, "best": problem.best, "uniform": problem.uniform}
            row |= {method: one(problem, method, seed) for method in METHODS}
            found.setdefault(problem.name, []).append(row)
            print(problem.name, seed, {m: round(row[m]["hypervolume"], 4) for m in METHODS}, flush=True)
    publish(where.out, "search_problems", table(found), {"found": found})
    print(table(found))


if __name__ == "__main__":
    main()
