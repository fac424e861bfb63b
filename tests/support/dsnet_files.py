"""Files of DS-Net's reference code, and what it computes."""

from argparse import Namespace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import anywidth as aw
from deterministic_fill import filled
from dsnet_reference import channels, forward, shapes

GAIN = 3.0
X = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@cache
def stored(classes: int = 7) -> dict[str, Tensor]:
    """Weights under which the signal of an image reaches the logits."""
    found = filled({n: torch.empty(s) for n, s in shapes(classes).items()})
    found = {n: GAIN * t if n.endswith("conv_pw.weight") else t for n, t in found.items()}
    return {n: torch.zeros((), dtype=torch.int64) if t.ndim == 0 else t for n, t in found.items()}


def contents(state: dict[str, Tensor], prefix: str = "", **more: object) -> dict[str, object]:
    """What a training saves."""
    weight = torch.nn.Parameter(torch.ones(3))
    return {
        "epoch": 3,
        "arch": "slimmable_mbnet_v1_bn_uniform",
        "state_dict": {prefix + n: t for n, t in state.items()},
        "optimizer": torch.optim.SGD([weight], 0.1, momentum=0.9, nesterov=True).state_dict(),
        "args": Namespace(lr=0.08, mean=[0.5, 0.5], config="a.yml", amp=False, none=None),
        "version": 2,
        "metric": 70.1,
        **more,
    }


def save(path: Path, state: dict[str, Tensor] | None = None, **options) -> Path:
    torch.save(contents(stored() if state is None else state, **options), path)
    return path


def load(path: Path, **options) -> aw.Elastic:
    return aw.interop.load(path, source="dsnet", model="ds_mbnet", image_size=64, **options)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.double() if t.is_floating_point() else t for n, t in state.items()}


def assert_computes(net: aw.Elastic, state: dict[str, Tensor], labels=(0, "largest")) -> None:
    net, state = net.double().eval(), doubled(state)
    with torch.no_grad():
        for label in labels:
            assert relative(net.at(label)(X), forward(state, X, channels(label))) < 1e-10, label
