"""The pruned networks that the public code of Network Slimming gave for weights that depend on names alone."""

import pytest
import torch

import anywidth as aw
from anywidth import prune
from anywidth.interop.network_slimming import convert
from deterministic_fill import filled
from slimming_counts import macs, params
from slimming_reference import Densenet, Resnet, Vgg
from slimming_tables import PRUNED, SIZES

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
REFERENCES = {"vgg19": Vgg, "resnet164": Resnet, "densenet40": Densenet}
_made = {}


def network(name):
    if name not in _made:
        reference = REFERENCES[name]()
        own, state = convert(filled(reference.state_dict()), name)
        own.load_state_dict(state)
        _made[name] = aw.Elastic(own.double(), X[:1]).eval()
    return _made[name]


@pytest.mark.parametrize(("name", "share"), PRUNED)
def test_channels_threshold_sizes_and_outputs(name, share):
    net = network(name)
    _, threshold, size, multiply_adds, cfg = PRUNED[name, share]
    options = {"criterion": "bn_scale", "rule": "network-slimming", "streams": "selection"}
    found = prune.planned(net, share, **options)
    assert prune.plan(net, share, **options) == found.width
    assert list(prune.kept_by_norm(net, found.width).values()) == [c for c in cfg if c != "M"]
    assert found.threshold == pytest.approx(threshold, abs=5e-8)
    assert found.pruned == int(found.judged * share) + 1
    assert found.judged == SIZES[name][4][1]
    assert (net.params(found.width), net.macs(found.width)) == (size, multiply_adds)
    small = net.extract(found.width).eval()
    assert (params(small), macs(small)) == (size, multiply_adds)
    with torch.no_grad():
        expected = prune.masked(net, found.width).eval()(X)
        torch.testing.assert_close(small(X), expected, rtol=1e-10, atol=1e-12)
        narrow = prune.compact(net, found.width, fold=False).eval()
        torch.testing.assert_close(narrow(X), expected, rtol=1e-10, atol=1e-12)
    assert params(narrow) <= size
    assert macs(narrow) == multiply_adds


def test_the_lua_rule_removes_one_channel_less():
    net = network("vgg19")
    python = prune.planned(net, 0.3, rule="network-slimming")
    lua = prune.planned(net, 0.3, rule="torch7")
    assert (python.pruned, lua.pruned) == (1652, 1651)
    assert python.threshold > lua.threshold
    assert all(a <= b for a, b in zip(python.width.kept, lua.width.kept, strict=True))
