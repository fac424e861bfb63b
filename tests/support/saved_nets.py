"""A small network in every norm policy, to save and to load."""

import torch
from torch import nn

from anywidth import Elastic
from oracles import rand, randomized
from random_nets import RandomNet

IMAGE = (4, 3, 4, 4)
KINDS, SIZES = ("residual", "batchnorm", "dense"), (6, 5, 4)


def new_model(seed: int = 0) -> nn.Module:
    return randomized(RandomNet(KINDS, SIZES), seed)


def new_net(norm: str = "shared") -> Elastic:
    net = Elastic(new_model(), rand(*IMAGE), norm=norm, widths={0.5: 0.5, "large": 0.8, 3: 0.3, 1.0: 1.0})
    if norm != "frozen":
        net.calibrate([rand(*IMAGE)])
    with torch.no_grad():
        for p in net.norms.parameters():
            p.mul_(1.5)
    return net
