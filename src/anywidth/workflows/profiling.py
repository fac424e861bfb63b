"""What a network costs at which width, and what of it is elastic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from anywidth.cost.latency import measure_all, ratios
from anywidth.elastic import Elastic
from anywidth.workflows.naming import build_model, input_shape


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Costs of a network.

    Attributes:
        net: the elastic network, with fresh weights.
        facts: `groups`, what is `frozen` and `unknown`, and for each of the `widths` MACs, parameters and latency; plain data.
    """

    net: Elastic
    facts: dict[str, Any]


def profile(
    model: str,
    widths: Sequence[float | str] = (0.25, 0.5, 0.75, 1.0),
    *,
    shape: tuple[int, ...] | None = None,
    batch: int = 1,
    repeats: int = 10,
    threads: int = 1,
) -> Profile:
    """Profile a network with fresh weights, downloading nothing: groups, cost, latency, what is frozen.

    Args:
        model: a class of `anywidth.models`, "torchvision:NAME", "timm:NAME", or a bare NAME.
        widths: ratios.
        shape: (channels, height, width) of an image; by default the network's own.
        batch: images at once when measuring latency.
        repeats: timed runs of each width.
        threads: CPU threads.

    Returns:
        The network and its costs.

    Raises:
        RecipeError: an unknown network.
        WidthError: widths that do not exist.
    """
    network = build_model(model, {}).eval()
    size = shape or input_shape(network)
    # A fixed example: a trace must not depend on the random state.
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    net = Elastic(network, x).eval()
    facts: dict[str, Any] = {
        "model": model,
        "input": list(size),
        "groups": [asdict(group) for group in net.space.groups],
        "frozen": [asdict(frozen) for frozen in net.space.frozen],
        "unknown": list(net.space.unknown),
        "widths": _costs(net, x, widths, batch=batch, repeats=repeats, threads=threads),
        "batch": batch,
        "threads": threads,
        "torch": torch.__version__,
    }
    return Profile(net=net, facts=facts)


def _costs(
    net: Elastic, x: Tensor, widths: Sequence[float | str], *, batch: int, repeats: int, threads: int
) -> list[dict[str, Any]]:
    """MACs, parameters, and seconds of the extracted network, per width."""
    images = x[:1].expand(batch, *x.shape[1:]).contiguous()
    small = {str(width): net.extract(width).eval() for width in widths}
    with torch.inference_mode():
        calls = {name: (lambda module=module: module(images)) for name, module in small.items()}
        latencies = measure_all(calls, repeats=repeats, threads=threads)
    slowest = max(latencies, key=lambda name: latencies[name].median)
    relative = ratios(latencies, baseline=slowest)
    return [
        {
            "width": width,
            "macs": int(net.macs(width)),
            "params": int(net.params(width)),
            "latency": latencies[str(width)].median,
            "latency_quartiles": [latencies[str(width)].low, latencies[str(width)].high],
            "latency_ratio": relative[str(width)],
        }
        for width in widths
    ]
