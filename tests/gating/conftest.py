from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torchvision.models.resnet import BasicBlock, ResNet

from anywidth.elastic import Elastic
from anywidth.gating import Cut, Routes
from anywidth.interop import dsnet
from anywidth.models import DSMBNet

CANDIDATES = ((4, 6), (8, 12), (8, 16), (12, 20), (16, 20, 24, 32), (24, 28, 32, 40))
CUT = Cut(at="stages.3.0.depthwise.attention", feature="stages.3.0.depthwise.attention.squeeze")


class Case(NamedTuple):
    net: Elastic
    routes: Routes
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="session")
def case() -> Case:
    """A small DS-MBNet in float64 with four widths that share their trunk."""
    torch.manual_seed(0)
    model = DSMBNet(
        5,
        channels=[t[-1] for t in CANDIDATES],
        blocks=(1, 1, 1, 2, 1),
        stem_stride=1,
        strides=(1, 1, 2, 2, 2),
    )
    net = dsnet.elastic(model, 32, candidates=CANDIDATES).double()
    images = torch.randn(24, 3, 32, 32, dtype=torch.float64)
    net.calibrate([images], widths=[0, 1, 2, 3], batches=1)
    net.eval()
    labels = torch.randint(0, 5, (24,))
    return Case(net, Routes(net, [CUT], [0, 1, 2, 3]), images, labels)


@pytest.fixture(scope="session")
def two_gates():
    torch.manual_seed(0)
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    net = Elastic(model, torch.zeros(1, 3, 32, 32)).double()
    narrow = {"layer3*": 0.25, "layer4*": 0.5}
    widths = [net.space.width(narrow), net.space.width({"layer3*": 0.5, "layer4*": 0.75}), net.space.full]
    images = torch.randn(20, 3, 32, 32, dtype=torch.float64)
    cuts = [Cut(at="layer2"), Cut(at="layer3")]
    routes = Routes(net, cuts, widths)
    every = [routes.width(route) for route in routes.all()]
    net.calibrate([images], widths=every, batches=1)
    return net.eval(), Routes(net, cuts, widths), images
