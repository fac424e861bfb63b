from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import anywidth as aw
from anywidth import prune
from anywidth.errors import WidthError
from anywidth.models import CifarDenseNet, CifarVGG, PreActResNet
from scattered_norms import X, scattered


@pytest.fixture(scope="module")
def vgg():
    channels = [8, 16, 16, 16, 24, 24, 32, 32]
    return aw.Elastic(scattered(CifarVGG(11, channels=channels)).double(), X[:1]).eval()


SCORES = {"0": [5, 1, 4, 2, 3, 6, 8, 7]}


def kept(net, **options):
    width = prune.plan(net, criterion=SCORES, **options)
    return list(width.units(0))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return aw.Elastic(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 3))


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


def test_a_fresh_network_says_what_to_do():
    net = aw.Elastic(CifarVGG(11, channels=[4] * 8), X[:1].float())
    with pytest.raises(WidthError, match=r"all 32 scores equal 0.5.*train.sparsity.l1"):
        prune.plan(net, 0.5)


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


@pytest.mark.parametrize("budget", ["macs=50%", "macs=20%", "params=30%", "macs=300k", "params=20k"])
def test_budgets_are_met_and_used(vgg, budget):
    found = prune.planned(vgg, budget=budget, criterion="l1")
    kind, _, text = budget.partition("=")
    cost = vgg.macs if kind == "macs" else vgg.params
    full = cost(1.0)
    limit = (
        float(text[:-1]) / 100 * full
        if text.endswith("%")
        else float(text[:-1]) * {"M": 1e6, "k": 1e3}[text[-1]]
    )
    assert 0.85 * limit < cost(found.width) <= limit
    one_more = prune.planned(vgg, (found.pruned - 0.5) / found.judged, criterion="l1")
    assert cost(one_more.width) > limit or one_more.pruned == found.pruned


@pytest.mark.parametrize("scope", ["layer", "isomorphic"])
@pytest.mark.parametrize("budget", ["macs=50%", "params=40%"])
def test_a_budget_is_used_up_where_one_step_narrows_many_groups(scope, budget):
    """Eight layers of 32 channels in steps of 16: a step of all of them at once halves the network twice over."""
    torch.manual_seed(0)
    sizes = [3, *[32] * 8]
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)]
    net = aw.Elastic(nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4, 5)), torch.zeros(1, 3, 2, 2))
    options = {"criterion": "l1", "scope": scope, "round_to": 16}
    found = prune.planned(net, budget=budget, **options)
    cost = net.macs if budget.startswith("macs") else net.params
    share = float(budget.partition("=")[2][:-1]) / 100
    assert 0.8 * share < cost(found.width) / cost(1.0) <= share
    assert set(found.width.kept) == {16, 32}
    assert found.pruned == sum(g.size - k for g, k in zip(net.space.groups, found.width.kept, strict=True))
    narrow = net.extract(found.width)  # what stays are the best channels of every layer
    for i, (wide, layer) in enumerate(zip(layers, list(narrow)[:8], strict=True)):
        strongest = wide.weight.detach().abs().sum((1, 2, 3)).sort(descending=True).indices
        rows = wide.bias.detach()[strongest[: layer.out_channels].sort().values]
        torch.testing.assert_close(layer.bias.detach(), rows, msg=f"layer {i}")


def test_a_latency_budget_is_measured(small):
    net = aw.Elastic(
        nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512)), torch.randn(64, 512)
    )
    found = prune.planned(net, budget="latency=60%", criterion="l1")
    assert 0 < found.pruned < 2048
    with pytest.raises(WidthError, match="cannot be met"):
        prune.plan(net, budget="latency=0.001us", criterion="l1")


def test_a_budget_out_of_reach_says_the_range(vgg):
    before = {n: t.clone() for n, t in vgg.state_dict().items()}
    with pytest.raises(
        WidthError, match=r"budget macs=0.01% = \d+.* cannot be met: from \d+.* to \d.* can be had"
    ):
        prune.plan(vgg, budget="macs=0.01%")
    with pytest.raises(WidthError, match=r"the whole network costs .* already"):
        prune.plan(vgg, budget="macs=200%")
    assert all(torch.equal(t, before[n]) for n, t in vgg.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "ratio = 0: the share of channels to remove lies in"),
        ({"ratio": 1.0}, "ratio = 1.0"),
        ({"ratio": -0.5}, "ratio = -0.5"),
        ({"ratio": float("nan")}, "ratio = nan"),
        ({}, "say how much goes"),
        ({"ratio": 0.5, "rule": "caffe"}, "unknown rule 'caffe'; use one of None, network-slimming, torch7"),
        ({"ratio": 0.5, "scope": "all"}, "unknown scope"),
        ({"ratio": 0.5, "streams": "free"}, "unknown streams"),
        ({"ratio": 0.5, "empty": "crash"}, "unknown empty"),
        ({"ratio": 0.5, "max_per_layer": 0}, "max_per_layer = 0"),
        ({"ratio": 0.5, "round_to": 0}, "round_to = 0"),
        ({"budget": "flops=3"}, "expected macs=LIMITS"),
        ({"budget": "macs=50%,20%"}, "names 2 limits; give one"),
        ({"ratio": 0.001, "rule": "torch7"}, "'torch7' removes nothing"),
        ({"ratio": 0.5, "criterion": {"stem": [1]}}, "scores for 'stem', which is no channel group"),
        ({"ratio": 0.5, "criterion": {"features.0": [1]}}, "has 8 units; got scores of shape"),
        ({"ratio": 0.5, "criterion": {"features.0": [float("nan")] * 8}}, "not finite"),
    ],
)
def test_what_is_refused(vgg, options, message):
    with pytest.raises(WidthError, match=message):
        prune.plan(vgg, **options)


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


def test_streams_stay_where_layers_choose():
    net = aw.Elastic(scattered(torchvision.models.resnet18(num_classes=4)).double(), X[:1]).eval()
    selecting, coupled = (prune.plan(net, 0.5, streams=s) for s in ("selection", "coupled"))
    assert len(selecting) == 8
    assert len(coupled) > 8
    small = net.extract(selecting)
    assert small.layer4[1].conv2.out_channels == 512
    assert small.layer4[1].conv2.in_channels < 512
    dense = aw.Elastic(scattered(CifarDenseNet(22)).double(), X[:1]).eval()
    width = prune.plan(dense, 0.5, streams="selection")
    small = dense.extract(width)
    assert [m.out_channels for m in small.features.block1.modules() if isinstance(m, nn.Conv2d)] == [12] * 6
    assert sum(prune.kept_by_norm(dense, width).values()) == pytest.approx(
        0.5 * sum(prune.kept_by_norm(dense, dense.space.full).values()), abs=1
    )


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


def test_a_pruned_network_is_pruned_again(vgg):
    first = prune.plan(vgg, 0.3)
    net = aw.Elastic(vgg.extract(first), X[:1]).eval()
    second = prune.plan(net, 0.3)
    for g, (a, b) in enumerate(zip(first.kept, second.kept, strict=True)):
        inside = [list(first.units(g))[u] for u in second.units(g)]
        assert b <= a
        assert set(inside) <= set(first.units(g))


def test_rounding_and_minimum_of_the_network_hold():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 2))
    net = aw.Elastic(model, torch.randn(2, 3), divisor=8, minimum=12)
    assert prune.plan(net, 0.5, criterion="l1")["0"] == 16
    assert prune.plan(net, 0.95, criterion="l1")["0"] == 16
    assert prune.plan(net, 0.4, criterion="l1", round_to=12)["0"] == 24


def test_a_network_that_was_cast_or_loaded(tmp_path):
    net = aw.Elastic(scattered(CifarDenseNet(10)), X[:1].float()).double().eval()
    width = prune.plan(net, 0.5, streams="selection")
    assert net.extract(width)(X).shape == (2, 10)
    net.save(tmp_path / "net.safetensors")
    again = aw.load(tmp_path / "net.safetensors", CifarDenseNet(10).double()).eval()
    assert prune.plan(again, 0.5) == prune.plan(net, 0.5)
    with pytest.raises(aw.errors.TraceError, match=r"knows no example inputs.*net.set_example_"):
        prune.plan(again, 0.5, streams="selection")
    again.set_example_(X[:1])
    assert prune.plan(again, 0.5, streams="selection") == width
    torch.testing.assert_close(again.extract(width)(X), net.extract(width)(X))


def test_a_budget_without_emptied_layers(vgg):
    assert prune.plan(vgg, budget="macs=70%", empty="error") == prune.plan(vgg, budget="macs=70%")
    weak = {g.name: np.linspace(1, 2, g.size) for g in vgg.space.groups}
    weak["features.4"] = np.linspace(0.1, 0.2, 16)
    with pytest.raises(WidthError, match=r"would take all channels of group 'features.4'|cannot be met"):
        prune.plan(vgg, budget="macs=10%", criterion=weak, empty="error")


@pytest.mark.parametrize(
    "options",
    [{"ratio": "x"}, {"ratio": 0.5, "max_per_layer": "a"}, {"budget": 5}, {"ratio": 0.5, "minimum": 1.5}],
)
def test_values_of_other_types_are_refused(vgg, options):
    with pytest.raises(WidthError, match="expected"):
        prune.plan(vgg, **options)
