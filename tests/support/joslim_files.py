"""Files of Joslim's reference code."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

import anywidth as aw
from anywidth.interop.joslim import MODELS
from deterministic_fill import filled
from joslim_reference import count, shapes


def stored(name: str, classes: int = 7) -> dict[str, torch.Tensor]:
    counters = {n: torch.zeros(s, dtype=torch.int64) for n, s in shapes(name, classes).items() if s == ()}
    return filled({n: torch.empty(s) for n, s in shapes(name, classes).items()} | counters)


def contents(name: str, rows: int = 4, classes: int = 7, prefix: str = "") -> dict[str, object]:
    """What a run saves: four vectors, of which the last two have no loss yet."""
    random, net = np.random.default_rng(0), cifar()
    x = random.uniform(0.3, 1, (rows, count(name)))
    y = [[float(1 + i) if i < rows - 2 else 0.0, 0.1 * (i + 1)] for i in range(rows)]
    records = [{"loss": a, "flops": 1000.0 + i, "ratio": b, "filters": [[6]]} for i, (a, b) in enumerate(y)]
    return {
        "model_state_dict": {prefix + n: t for n, t in stored(name, classes).items()},
        "optim_state_dict": torch.optim.SGD(net.parameters(), 0.1, momentum=0.9).state_dict(),
        "epoch": 3,
        "population_data": records,
        "X": x,
        "Y": y,
        "ratio_visited": [0.5],
    }


def cifar() -> nn.Module:
    return MODELS["slim_resnet20"](num_classes=7)


def save(path: Path, name: str = "slim_resnet20", **options) -> Path:
    torch.save(contents(name, **options), path)
    return path


def load(path: Path, name: str, **options) -> aw.Elastic:
    return aw.interop.load(path, source="joslim", model=name, image_size=32, **options)
