"""Trains small detectors for two steps and writes the weights; as a script, in two processes and in one (see test_detector_processes).

Processes are forked, so that imports and networks are paid once.
"""

import sys
from functools import partial
from pathlib import Path

import torch

from anywidth.detect import DetectionLoss, detections
from anywidth.elastic import Elastic
from anywidth.train import FitConfig, distributed, fit_, policies
from detector_cases import small
from processes import fork

CASES = {"retinanet_resnet50_fpn": {}}


def data():
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, 96, 96, generator=generator, dtype=torch.float64) for _ in range(4)]
    targets = []
    for i in range(4):
        corner = torch.rand(2, 2, generator=generator, dtype=torch.float64) * 40
        boxes = torch.cat([corner, corner + 30 + 5 * i], 1)
        targets.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "image_id": i})
    return images, targets


def new(name: str) -> Elastic:
    torch.manual_seed(0)
    return small(name, widths=(0.25, 1.0), **CASES[name])


def train(name: str, net: Elastic, out: Path) -> None:
    rank, world = distributed.rank(), distributed.world()
    images, targets = data()
    share = [([images[i] for i in part], [targets[i] for i in part]) for part in torch.arange(4).view(2, world, -1)[:, rank].tolist()]  # fmt: skip

    config = FitConfig(epochs=1, lr=0.001, momentum=0.9, clip=35.0)
    run = out / f"{name}-{world}"
    if rank == 0:
        run.mkdir()
    distributed.barrier()
    draw = policies.make_draw("listed", net, low=0.25, high=1.0, random=0)
    fit_(net, lambda epoch, first: share[first:], draw, config, seed=3, run=run, task=DetectionLoss())
    mine = [([images[i]], [targets[i]]) for i in range(rank, 4, world)]
    found = detections(net, mine, [0.25, 1.0], (1, 2, 3))
    gathered = [sorted((r for part in parts for r in part), key=lambda r: (r["image_id"], -r["score"], r["bbox"])) for parts in zip(*distributed.gathered(found), strict=True)]  # fmt: skip
    if rank == 0:
        torch.save({"net": net.state_dict(), "found": gathered}, out / f"{name}-{world}.pt")


def train_all(nets: dict[str, Elastic], out: Path) -> None:
    with distributed.processes(torch.device("cpu")):
        for name, net in nets.items():
            train(name, net, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    nets = {name: new(name) for name in CASES}
    fork(partial(train_all, nets, Path(sys.argv[1])), world=2)
    train_all(nets, Path(sys.argv[1]))
