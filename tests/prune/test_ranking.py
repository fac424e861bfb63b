import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import anywidth as aw
from anywidth import prune
from anywidth.errors import WidthError
from anywidth.models import PreActResNet
from scattered_norms import X, scattered

SCORES = {"0": [5, 1, 4, 2, 3, 6, 8, 7]}


def kept(net, **options):
    width = prune.plan(net, criterion=SCORES, **options)
    return list(width.units(0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ratio": 0.5}, [0, 5, 6, 7]),
        ({"ratio": 0.49}, [0, 2, 5, 6, 7]),
        ({"ratio": 0.5, "rule": "network-slimming"}, [5, 6, 7]),
        ({"ratio": 0.5, "rule": "torch7"}, [0, 5, 6, 7]),
        ({"ratio": 0.5, "max_per_layer": 0.25}, [0, 2, 4, 5, 6, 7]),
        ({"ratio": 0.9, "minimum": 3}, [5, 6, 7]),
        ({"ratio": 0.6, "round_to": 4}, [0, 5, 6, 7]),
        ({"ratio": 0.2, "round_to": 6}, list(range(8))),
        ({"ratio": 0.99}, [6]),
    ],
)
def test_which_channels_stay(small, options, expected):
    assert kept(small, **options) == expected


def test_ties(small):
    """The published rule removes all channels at the threshold; ours as many as it was asked to, the first ones."""
    tied = {"0": [1, 1, 1, 1, 2, 2, 2, 2]}
    assert list(prune.plan(small, 0.25, criterion=tied).units(0)) == [2, 3, 4, 5, 6, 7]
    assert list(prune.plan(small, 0.25, criterion=tied, rule="network-slimming").units(0)) == [4, 5, 6, 7]
    with pytest.raises(
        WidthError, match="all 8 scores equal 1, so nothing tells channels apart; train first"
    ):
        prune.plan(small, 0.25, criterion={"0": [1] * 8})


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.7])
def test_exactly_the_share_goes(vgg, ratio):
    found = prune.planned(vgg, ratio)
    assert found.judged == 168
    assert found.pruned == int(168 * ratio)
    layer = prune.planned(vgg, ratio, scope="layer")
    assert all(
        g.size - k == int(g.size * ratio) for g, k in zip(vgg.space.groups, layer.width.kept, strict=True)
    )


def test_isomorphic_groups_are_ranked_among_themselves():
    """The last group feeds the classifier and is ranked alone; the others, convolutions between convolutions, together."""
    net = aw.Elastic(scattered(PreActResNet(20)).double(), X[:1]).eval()
    found = prune.planned(net, 0.5, scope="isomorphic").width
    streams = [i for i, g in enumerate(net.space.groups) if g.stream]
    inner = [i for i in range(len(net.space.groups)) if i not in streams]
    sizes = np.array([g.size for g in net.space.groups])
    assert sum(found.kept[i] for i in inner) == pytest.approx(sizes[inner].sum() / 2, abs=2)
    assert found != prune.plan(net, 0.5)


def test_a_layer_that_would_lose_everything(vgg, caplog):
    weak = {g.name: np.linspace(1, 2, g.size) for g in vgg.space.groups}
    weak["features.4"] = np.linspace(0.1, 0.2, 16)
    found = prune.planned(vgg, 0.1, criterion=weak)
    assert found.protected == ("features.4",)
    assert "keep 1 channels: features.4" in caplog.text
    assert list(found.width.units(1)) == [15]
    with pytest.raises(
        WidthError, match=r"'features.4' would lose all of its 16 channels; use a smaller ratio"
    ):
        prune.plan(vgg, 0.1, criterion=weak, empty="error")
    removed = prune.planned(vgg, 0.1, criterion=weak, empty="remove")
    assert removed.removed == ("features.4",)
    assert removed.width["features.4"] == 0
    assert removed.width["features.0"] == 0  # it fed that layer alone


def test_groups_that_are_routed_by_position_stay():
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    net = aw.Elastic(scattered(model), X[:1].float()).eval()
    routed = [i for i, g in enumerate(net.space.groups) if not g.permutable]
    assert routed
    width = prune.plan(net, 0.3)
    assert all(width.kept[i] == net.space.groups[i].size for i in routed)
    prefix = prune.plan(net, 0.3, positional=True)
    assert any(prefix.kept[i] < net.space.groups[i].size for i in routed)
    assert net.extract(prefix)(X.float()).shape == (2, 4)


def test_rounding_and_minimum_of_the_network_hold():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2))
    net = aw.Elastic(model, torch.randn(2, 3), divisor=8, minimum=12)
    assert prune.plan(net, 0.5, criterion="l1")["0"] == 16
    assert prune.plan(net, 0.95, criterion="l1")["0"] == 16
    assert prune.plan(net, 0.4, criterion="l1", round_to=12)["0"] == 24
