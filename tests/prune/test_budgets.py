from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth import prune
from anywidth.errors import WidthError


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


def test_a_budget_without_emptied_layers(vgg):
    assert prune.plan(vgg, budget="macs=70%", empty="error") == prune.plan(vgg, budget="macs=70%")
    weak = {g.name: np.linspace(1, 2, g.size) for g in vgg.space.groups}
    weak["features.4"] = np.linspace(0.1, 0.2, 16)
    with pytest.raises(WidthError, match=r"would take all channels of group 'features.4'|cannot be met"):
        prune.plan(vgg, budget="macs=10%", criterion=weak, empty="error")
