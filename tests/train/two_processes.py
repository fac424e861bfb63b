"""Trains every case of `CASES` and writes the weights; run once alone, and once as two processes (see test_two_processes)."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from anywidth.elastic import Elastic
from anywidth.models import SmallResNet
from anywidth.train import FitConfig, distributed, evaluate, fit_, policies
from anywidth.train.sparsity import SparsityConfig

WIDTHS = [0.25, 0.5, 1.0]
CASES: dict[str, Any] = {
    "listed": {"norm": "switchable", "target": "labels"},
    "sandwich": {},
    "random": {"target": "next_wider"},
    "min_max": {"clip": 0.5},
    "progressive": {"target": "ema", "ema": 0.9},
    "sandwich-per-group": {"per_group": True, "target": "alpha"},
    "sandwich-accumulated": {"accumulate": 2, "sync_norm": False, "norm": "frozen"},
    "sandwich-float32": {"dtype": torch.float32},
    "listed-sparse": {"target": "labels", "sparsity": SparsityConfig(l1=0.01, group_lasso=0.01), "clip": 0.5},
    "listed_sandwich": {
        "target": "ema_ensemble",
        "ema": 0.9,
        "skip_zero_gradients": True,
        "dropout_on": "widest",
        "clip": 0.5,
        "label_smoothing": 0.1,
        "trunk": "stages.0",
    },
    "sandwich-adamw": {"optimizer": "adamw", "label_smoothing": 0.1},
}


def images(dtype: torch.dtype) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    x = torch.randn(48, 1, 8, 8, generator=generator) + (labels - 1.0).view(-1, 1, 1, 1)
    return TensorDataset(x.to(dtype), labels)


def train(name: str, out: Path) -> None:
    """Two epochs of three steps; each process has its share of every batch."""
    values = dict(CASES[name])
    dtype = values.pop("dtype", torch.float64)
    norm, per_group = values.pop("norm", "shared"), values.pop("per_group", False)
    config = FitConfig(epochs=2, lr=0.05, **values)
    data = images(dtype)
    torch.manual_seed(distributed.rank())  # the first process's weights are everybody's
    model = SmallResNet(num_classes=3, channels=(4, 8)).to(dtype)
    if config.dropout_on == "widest":
        model.stages.append(torch.nn.Dropout(0.0))  # masks are each process's own
    net = Elastic(model, data.tensors[0][:2], widths=WIDTHS, norm=norm)
    rank, world, micro = distributed.rank(), distributed.world(), config.accumulate

    class Share:
        def __init__(self, epoch: int, first: int) -> None:
            order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch))
            self.parts = order.view(-1, world, micro, 16 // world // micro)[first:, rank].flatten(0, 1)

        def __len__(self):
            return len(self.parts)

        def __iter__(self):
            return ((data.tensors[0][i], data.tensors[1][i]) for i in self.parts)

    draw = policies.make(name.split("-")[0], net, low=0.25, high=1.0, random=2, per_group=per_group)
    run = out / f"{name}-{world}"
    if rank == 0:
        run.mkdir()
    distributed.barrier()
    fit_(net, Share, draw, config, seed=3, run=run)
    if norm == "shared":  # each process sees every second batch
        batches = [(data.tensors[0][i : i + 8],) for i in range(0, 48, 8)][rank::world]
        net.calibrate(
            batches,
            widths=[*WIDTHS, 0.6],
            batches=len(batches),
            total=distributed.total if world > 1 else None,
        )
    tested = [(data.tensors[0][rank::world], data.tensors[1][rank::world])]
    scores = evaluate(net, tested, list(net.widths))
    if rank == 0:
        torch.save(
            {"net": net.state_dict(), "scores": [(s.accuracy, s.loss, s.images) for s in scores]},
            out / f"{name}-{world}.pt",
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.processes(torch.device("cpu")):
        for case in CASES:
            train(case, Path(sys.argv[1]))
