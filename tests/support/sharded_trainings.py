"""Short trainings in shares, by one process."""

import torch

from anywidth.elastic import Elastic
from anywidth.models import SmallResNet
from anywidth.train import FitConfig, fit_, policies


def new_net() -> Elastic:
    torch.manual_seed(0)
    return Elastic(SmallResNet(num_classes=3, channels=(4, 8)), torch.zeros(2, 1, 8, 8), widths=[0.5, 1.0])


def batches(epoch: int, first: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    images = torch.randn(3, 8, 1, 8, 8, generator=generator)
    return [(x, torch.arange(8) % 3) for x in images[first:]]


def settings(**changes) -> FitConfig:
    return FitConfig(epochs=2, lr=0.05, sharding="fully_shard", save_every=1, **changes)


def fit(net, run, config, report=lambda progress: None):
    fit_(net, batches, policies.listed(list(net.widths)), config, seed=0, run=run, report=report)
