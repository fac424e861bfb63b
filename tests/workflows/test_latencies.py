from types import SimpleNamespace

import pytest
import torch
from torch import nn

from anywidth.elastic import Elastic
from anywidth.workflows import latencies
from anywidth.workflows.latencies import detector_latencies, image_latencies


class Detector(nn.Module):
    """Resizes images to at least `min_size`, as detectors of torchvision do."""

    def __init__(self, fixed_size=None):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.transform = nn.Identity()
        self.transform.min_size, self.transform.max_size = (800,), 1333
        self.transform.fixed_size = fixed_size

    def forward(self, images):
        return self.last(self.first(torch.stack(images)))


@pytest.fixture
def calls(monkeypatch) -> list:
    """Every call that is timed: it takes as many seconds as its first layer has channels."""
    timed = []

    def measure_all(calls, repeats):
        networks = {name: call.__defaults__[0] for name, call in calls.items()}
        timed.extend(
            (network, call().shape) for network, call in zip(networks.values(), calls.values(), strict=True)
        )
        first = {
            name: next(m for m in network.modules() if isinstance(m, nn.Conv2d))
            for name, network in networks.items()
        }
        return {name: SimpleNamespace(median=float(layer.out_channels)) for name, layer in first.items()}

    monkeypatch.setattr(latencies, "measure_all", measure_all)
    return timed


def test_extracted_classifiers_are_timed_in_the_order_of_their_widths(calls):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    net = Elastic(model, torch.zeros(1, 3, 4, 4)).train()
    assert image_latencies(net, [0.5, 0.25, 1.0, 0.5], torch.zeros(1, 3, 4, 4)) == [4, 2, 8, 4]
    assert not any(network.training for network, _ in calls)
    assert {tuple(shape) for _, shape in calls} == {(1, 2, 4, 4)}
    assert net.training


def test_a_detector_sees_images_of_the_size_that_costs_are_of(calls):
    net = Elastic(Detector(), ([torch.zeros(3, 8, 8)],))
    assert detector_latencies(net, [1.0, 0.5], 64) == [8, 4]
    assert {tuple(shape) for _, shape in calls} == {(1, 2, 64, 64)}
    assert {(network.transform.min_size, network.transform.max_size) for network, _ in calls} == {((64,), 64)}
    assert net.model.transform.min_size == (800,)


def test_a_detector_of_one_size_keeps_it(calls):
    detector_latencies(Elastic(Detector((320, 320)), ([torch.zeros(3, 8, 8)],)), [0.5], 64)
    assert calls[0][0].transform.min_size == (800,)
