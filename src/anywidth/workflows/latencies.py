"""Seconds of extracted networks, all timed in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anywidth.cost.latency import measure_all
from anywidth.elastic import Elastic
from anywidth.models.detectors import example_images

_CLASSIFIER_REPEATS, _DETECTOR_REPEATS = 20, 5


@torch.inference_mode()
def image_latencies(net: Elastic, widths: Sequence[Any], x: Tensor) -> list[float]:
    """Seconds of the extracted networks for one image; x: (1, C, H, W)."""
    image = x.to(next(net.parameters()).device)
    small = {str(i): net.extract(width).eval() for i, width in enumerate(widths)}
    times = measure_all(
        {name: (lambda m=module: m(image)) for name, module in small.items()}, repeats=_CLASSIFIER_REPEATS
    )
    return [times[str(i)].median for i in range(len(widths))]


@torch.inference_mode()
def detector_latencies(net: Elastic, widths: Sequence[Any], size: int) -> list[float]:
    """Seconds of the extracted detectors for one image of the size that costs are counted for, `size` x `size` pixels."""
    x = [t.to(next(net.parameters()).device) for t in example_images(net.model, (size, size))[0]]
    small = {str(i): net.extract(width).eval() for i, width in enumerate(widths)}
    for module in small.values():
        transform: Any = module.get_submodule("transform")
        if transform.fixed_size is None:  # SSDlite has one size
            transform.min_size, transform.max_size = (size,), size
    times = measure_all(
        {name: (lambda m=module: m(x)) for name, module in small.items()}, repeats=_DETECTOR_REPEATS
    )
    return [times[str(i)].median for i in range(len(widths))]
