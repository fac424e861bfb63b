"""What several processes do together, and one does alone (see test_two_processes).

Called with a folder: two processes train every case of `CASES` and write the weights, and what else two processes are needed for.
Then four train `MORE`, and go on from where two were stopped. They are forked, so that imports are paid once.
"""

import contextlib
import hashlib
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

from anywidth.elastic import Elastic
from anywidth.models import SmallResNet
from anywidth.train import FitConfig, Progress, distributed, evaluate, fit_, policies
from anywidth.train.sparsity import SparsityConfig
from anywidth.train.synchronised_norms import synchronised_
from processes import fork

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
    "sandwich-sharded": {"sharding": "fully_shard", "shard_modules": ("stages.*", "*.bn1"), "clip": 0.5},
    "listed-sharded": {
        "norm": "switchable",
        "sharding": "fully_shard",
        "shard_modules": ("stages.0",),
        "optimizer": "adamw",
        "clip": 0.5,
        "target": "alpha",
        "eval_every": 1,
        "best": "0.5",
    },
}


MORE = "sandwich"
STOPPED = "sandwich-stopped"
UNSYNCHRONISED = "min_max-unsynchronised"
SETTINGS = {
    **CASES,
    STOPPED: {
        "sharding": "fully_shard",
        "shard_modules": ("stages.*.*",),
        "optimizer": "adamw",
        "accumulate": 2,
        "norm": "frozen",
        "save_every": 1,
    },
    UNSYNCHRONISED: {"sync_norm": False, "target": "labels"},
}
STOP_AFTER = 4


class StoppedError(Exception):
    """Stands for an interruption."""


def images(dtype: torch.dtype) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    x = torch.randn(48, 1, 8, 8, generator=generator) + (labels - 1.0).view(-1, 1, 1, 1)
    return TensorDataset(x.to(dtype), labels)


def train(name: str, out: Path, stop_after: int | None = None) -> None:
    """Two epochs of three steps; each process has its share of every batch.

    Args:
        name: of the case.
        out: where files go; a run that is there already goes on.
        stop_after: raise `StoppedError` after so many steps.
    """
    values = dict(SETTINGS[name])
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

    draw = policies.make_draw(name.split("-")[0], net, low=0.25, high=1.0, random=2, per_group=per_group)
    run = out / f"{name}-{world}"
    if rank == 0:
        run.mkdir(exist_ok=True)
    distributed.barrier()

    def report(progress: Progress) -> None:
        if stop_after is not None and progress.step > stop_after:
            raise StoppedError

    tested = [(data.tensors[0][rank::world], data.tensors[1][rank::world])]

    def scores(net: Elastic) -> dict[str, float]:
        widths = list(net.widths)
        return {str(w): s.accuracy for w, s in zip(widths, evaluate(net, tested, widths), strict=True)}

    fit_(net, Share, draw, config, seed=3, run=run, report=report, scores=scores)
    digests = distributed.gathered(digest(net))
    if norm == "shared":  # each process sees every second batch
        batches = [(data.tensors[0][i : i + 8],) for i in range(0, 48, 8)][rank::world]
        net.calibrate(
            batches,
            widths=[*WIDTHS, 0.6],
            batches=len(batches),
            total=distributed.total if world > 1 else None,
        )
    results = evaluate(net, tested, list(net.widths))
    if rank == 0:
        torch.save(
            {
                "net": net.state_dict(),
                "scores": [(s.accuracy, s.loss, s.images) for s in results],
                "digests": digests,
            },
            out / f"{name}-{world}.pt",
        )


def digest(net: Elastic) -> str:
    """Of every bit of weights and statistics."""
    tensors = [t.contiguous().reshape(-1).view(torch.uint8) for t in net.state_dict().values() if t.numel()]
    return hashlib.sha256(torch.cat(tensors).numpy().tobytes()).hexdigest()


def stop(out: Path) -> None:
    """Train until `StoppedError`, and keep the run directory for those who go on."""
    with contextlib.suppress(StoppedError):
        train(STOPPED, out, STOP_AFTER)
    distributed.barrier()
    if distributed.rank() == 0:
        (out / f"{STOPPED}-{distributed.world()}").rename(out / STOPPED)


def go_on(out: Path) -> None:
    """Finish what `stop` left, in this number of processes."""
    if distributed.rank() == 0:
        shutil.copytree(out / STOPPED, out / f"{STOPPED}-{distributed.world()}")
    distributed.barrier()
    train(STOPPED, out)


def uneven_net() -> Elastic:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 2, 1)]
    model = torch.nn.Sequential(*layers).double()
    return Elastic(model, torch.zeros(1, 1, 8, 8).double(), widths=[0.5, 1.0]).train()


def uneven_images() -> list[torch.Tensor]:
    """Of each of two processes: other numbers and sizes, and other statistics."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(2, 1, 8, 8), (3, 1, 6, 10)]
    return [
        3 * i + torch.randn(size, generator=generator, dtype=torch.float64) for i, size in enumerate(sizes)
    ]


def uneven(out: Path) -> None:
    """Write the sum over processes of gradients, and the statistics, of a step whose images differ in size."""
    net, x = uneven_net(), uneven_images()[distributed.rank()]
    net.at(0.5)  # of classes that are not synchronised
    with synchronised_(net, True):
        net.at(0.5)(x).square().sum().backward()
    gradients = {n: distributed.total(p.grad) for n, p in net.named_parameters()}
    if distributed.rank() == 0:
        torch.save({"gradients": gradients, "statistics": net.norm_state()}, out / "uneven.pt")


def as_two(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.processes(torch.device("cpu")):
        for case in (*CASES, UNSYNCHRONISED):
            train(case, folder)
        stop(folder)
        uneven(folder)


def as_four(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.processes(torch.device("cpu")):
        train(MORE, folder)
        go_on(folder)


if __name__ == "__main__":
    fork(partial(as_two, Path(sys.argv[1])), world=2)
    fork(partial(as_four, Path(sys.argv[1])), world=4)
