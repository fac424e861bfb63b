import socket

import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from enumerated_searches import three_groups
from known_fronts import GROUPS, UNITS


@pytest.fixture
def net() -> Elastic:
    return three_groups()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def chain() -> Elastic:
    """Eight groups of 64 channels."""
    layers: list[nn.Module] = []
    for i in range(GROUPS):
        layers += [nn.Linear(UNITS if i else 3, UNITS), nn.ReLU()]
    return Elastic(nn.Sequential(*layers, nn.Linear(UNITS, 2)), torch.zeros(1, 3))
