"""Gates on the test images: accuracy and cost, beside static widths and at other biases; latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anywidth import data
from anywidth.cost.latency import measure_all
from anywidth.gating import DynamicNet, GateConfig, Routes, answers, bias_for, chosen, costs_of
from anywidth.train.evaluate import evaluate
from anywidth.workflows.classifier_run import ClassifierRun

_POINTS = 21


def measured_gates(
    run: ClassifierRun,
    routes: Routes,
    gates: Sequence[nn.Module],
    net: DynamicNet,
    held_out: data.Batches,
    config: GateConfig,
) -> dict[str, Any]:
    """Static widths, the gates as they are, and a sweep of their bias, all on the test images.

    For every image it is worked out once what each gate answers and which choices are right; a bias of the gates then
    only picks from these tables, so that the sweep runs no network.
    """
    costs = costs_of(routes, sum(g.macs for g in gates))  # pyright: ignore[reportArgumentType, reportCallIssue]
    known, _ = answers(routes, gates, held_out)
    nodes, correct = answers(routes, gates, run.eval_batches())
    ends = (0,) * len(gates), (routes.choices - 1,) * len(gates)
    to_widest = ~correct[(slice(None), *ends[0])]
    scores = evaluate(routes.net, run.eval_batches(), routes.widths)
    static = [
        {"width": str(label), "macs": routes.macs((k,) * len(gates)), "accuracy": score.accuracy}
        for k, (label, score) in enumerate(zip(routes.labels, scores, strict=True))
    ]

    def point(bias: Sequence[Tensor]) -> dict[str, Any]:
        choices = chosen(nodes, bias)
        macs = costs.of(choices)
        hit = correct[(torch.arange(len(choices)), *choices.T)]
        ideal_choice = torch.where(to_widest, routes.choices - 1, 0)
        mean = float(macs.mean())
        return {
            "macs": mean,
            "accuracy": float(hit.double().mean()),
            "static_line": float(
                np.interp(mean, [s["macs"] for s in static], [s["accuracy"] for s in static])
            ),
            "gate_accuracy": float((choices == ideal_choice[:, None]).double().mean()),
            "routes": [torch.bincount(column, minlength=routes.choices).tolist() for column in choices.T],
        }

    low, high = costs.reachable
    sweep = [
        point(
            _bias(
                costs.shares, bias_for(known, costs, low + (high - low) * i / (_POINTS - 1)), nodes[0].logits
            )
        )
        for i in range(_POINTS)
    ]
    return {
        "static": static,
        "gate": point([g.bias for g in gates]) | {"target": config.target},  # pyright: ignore[reportArgumentType]
        "sweep": sweep,
        "images": len(to_widest),
    }


def _bias(shares: Sequence[Tensor], strength: float, like: Tensor) -> list[Tensor]:
    return [(-strength * share).to(like) for share in shares]


@torch.inference_mode()
def gate_latencies(run: ClassifierRun, routes: Routes, net: DynamicNet) -> list[dict[str, Any]]:
    """Seconds of a batch, and the mean of the static networks that its images are sent to, timed in turns."""
    images = next(iter(run.eval_batches()))[0].to(run.device)
    return [_latency(routes, net, _repeated(images, size)) for size in (1, 32, 256)]


def _repeated(images: Tensor, size: int) -> Tensor:
    return images.repeat(-(-size // len(images)), *[1] * (images.ndim - 1))[:size]


def _latency(routes: Routes, net: DynamicNet, batch: Tensor) -> dict[str, Any]:
    taken = net.routed(batch).routes
    networks = {
        str(r): routes.net.extract(routes.width(tuple(r))).eval() for r in taken.unique(dim=0).tolist()
    }
    calls = {"gated": lambda: net(batch)} | {k: (lambda m=m: m(batch)) for k, m in networks.items()}
    times = {k: t.median for k, t in measure_all(calls, repeats=10).items()}
    mean = sum(times[str(r)] for r in taken.tolist()) / len(batch)
    return {
        "batch": len(batch), "gated": times["gated"], "static_mean": mean, "ratio": times["gated"] / mean,
    }  # fmt: skip
