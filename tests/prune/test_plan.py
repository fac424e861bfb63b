import pytest
import torch
import torchvision
from torch import nn

import anywidth as aw
from anywidth import prune
from anywidth.errors import WidthError
from anywidth.models import CifarDenseNet, CifarVGG
from scattered_norms import X, scattered


def test_a_fresh_network_says_what_to_do():
    net = aw.Elastic(CifarVGG(11, channels=[4] * 8), X[:1].float())
    with pytest.raises(WidthError, match=r"all 32 scores equal 0.5.*train.sparsity.l1"):
        prune.plan(net, 0.5)


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


def test_a_pruned_network_is_pruned_again(vgg):
    first = prune.plan(vgg, 0.3)
    net = aw.Elastic(vgg.extract(first), X[:1]).eval()
    second = prune.plan(net, 0.3)
    for g, (a, b) in enumerate(zip(first.kept, second.kept, strict=True)):
        inside = [list(first.units(g))[u] for u in second.units(g)]
        assert b <= a
        assert set(inside) <= set(first.units(g))


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


@pytest.mark.parametrize(
    "options",
    [{"ratio": "x"}, {"ratio": 0.5, "max_per_layer": "a"}, {"budget": 5}, {"ratio": 0.5, "minimum": 1.5}],
)
def test_values_of_other_types_are_refused(vgg, options):
    with pytest.raises(WidthError, match="expected"):
        prune.plan(vgg, **options)
