from collections.abc import Callable

import pytest
import torch
from torch.utils.data import TensorDataset

from anywidth.elastic import Elastic
from anywidth.models import SmallResNet
from anywidth.train import fit_
from fit_settings import CONFIG, DRAW

WIDTHS = [0.25, 0.5, 1.0]


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small gain nothing from a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images() -> TensorDataset:
    """48 images of three classes that differ in their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    x = torch.randn(48, 1, 8, 8, generator=generator) + (labels - 1.0).view(-1, 1, 1, 1)
    return TensorDataset(x, labels)


class Shuffled:
    """Batches of 16 in an order of the epoch; the share of one process, in micro-batches."""

    def __init__(self, images, epoch, first, rank=0, world=1, micro=1):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        self.images, self.parts = images, order.view(-1, world, micro, 16 // world // micro)[first:, rank]

    def __len__(self):
        return self.parts.shape[0] * self.parts.shape[1]

    def __iter__(self):
        x, y = self.images.tensors
        return ((x[i], y[i]) for i in self.parts.flatten(0, 1))


@pytest.fixture
def batches(images) -> Callable[..., Shuffled]:
    return lambda epoch, first, **options: Shuffled(images, epoch, first, **options)


@pytest.fixture
def new_net(images) -> Callable[..., Elastic]:
    """Always the same fresh network; dropout makes a step depend on the global generator."""

    def build(dropout: float = 0.0, channels: tuple[int, ...] = (8, 16), norm="shared") -> Elastic:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = SmallResNet(num_classes=3, channels=channels)
        model.stages.append(torch.nn.Dropout(dropout))
        return Elastic(model, images.tensors[0][:2], widths=WIDTHS, norm=norm)

    return build


@pytest.fixture
def fit(batches, new_net, tmp_path):
    def run(name="run", *, seed=0, config=CONFIG, draw=DRAW, dropout=0.0, **options):
        net = new_net(dropout)
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        fit_(net, batches, draw, config, seed=seed, run=directory, **options)
        return net

    return run
