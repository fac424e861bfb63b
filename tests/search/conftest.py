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
def not_compiled(monkeypatch) -> None:
    """BoTorch compiles a part of "ehvi" on first use, which takes half a minute; what it does in Python is the same."""
    logei = pytest.importorskip("botorch.acquisition.multi_objective.logei")
    monkeypatch.setattr(logei, "_load_attempted", True, raising=False)
    monkeypatch.setattr(logei, "_C", None, raising=False)


@pytest.fixture(scope="module")
def chain() -> Elastic:
    """Eight groups of 64 channels."""
    layers: list[nn.Module] = []
    for i in range(GROUPS):
        layers += [nn.Linear(UNITS if i else 3, UNITS), nn.ReLU()]
    return Elastic(nn.Sequential(*layers, nn.Linear(UNITS, 2)), torch.zeros(1, 3))
