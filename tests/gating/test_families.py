"""Gated inference of other networks: every row of a batch is the static network of its route."""

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from anywidth.elastic import Elastic
from anywidth.gating import DynamicNet, Routes, new_gates, walk
from anywidth.graph.partition import Cut, split
from anywidth.models import DSResNet


def mobilenet_v2() -> Routes:
    model = torchvision.models.mobilenet_v2(num_classes=5).double()
    net = Elastic(model, torch.zeros(1, 3, 32, 32).double(), divisor=8)
    late = ("features.[789].*", "features.1?.*")
    for label, share in (("S", 0.25), ("M", 0.5), ("XL", 1.0)):
        net.list_width_(label, net.space.width(dict.fromkeys(late, share)))
    return made(net, [Cut(at="features.6")], ("S", "M", "XL"))


def ds_resnet() -> Routes:
    net = Elastic(
        DSResNet(50, num_classes=5, channels=(16, 8, 16, 24, 32), blocks=(1, 1, 1, 1), small=True).double(),
        torch.zeros(1, 3, 32, 32).double(),
        freeze=["conv1", "layer*.0.conv3", "*.attention.squeeze.reduce"],
    )
    for label in (0.25, 0.5, 1.0):
        net.list_width_(label, label)
    return made(net, [Cut(at=at) for at in ("relu", "layer1", "layer2", "layer3")], (0.25, 0.5, 1.0))


def small_vgg() -> Routes:
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)
    model = torchvision.models.VGG(features, num_classes=5)
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(), nn.Linear(16, 5))  # not a gigabyte
    net = Elastic(model.double(), torch.zeros(1, 3, 32, 32).double())
    for label, share in (("narrow", 0.5), ("wide", 1.0)):
        net.list_width_(label, net.space.width({"features.1?": share, "features.2?": share}))
    return made(net, [Cut(at="features.10")], ("narrow", "wide"))


def made(net: Elastic, cuts: list[Cut], widths: tuple) -> Routes:
    routes = Routes(net, cuts, widths)
    images = torch.randn(8, 3, 32, 32).double()
    net.calibrate([images], widths=list(map(routes.width, routes.all())), batches=1)
    net.eval()
    return Routes(net, cuts, widths)


def even_gates(routes: Routes, x: torch.Tensor) -> list[torch.nn.Module]:
    gates = new_gates(routes.features(x[:1]), routes.choices).double()
    with torch.no_grad():
        nodes, _ = walk(routes, list(gates), x)
        for number, gate in enumerate(gates):
            gate.bias -= torch.cat([n.logits for n in nodes if len(n.route) == number]).mean(0)  # pyright: ignore[reportOperatorIssue, reportCallIssue]
    return list(gates)


@pytest.mark.parametrize("family", [mobilenet_v2, ds_resnet, small_vgg])
def test_rows_are_those_of_static_networks(family):
    torch.manual_seed(0)
    routes, x = family(), torch.randn(9, 3, 32, 32).double()
    gates = even_gates(routes, x)
    found = DynamicNet(routes, gates).routed(x)
    assert len(found.routes.unique(dim=0)) > 1
    for row, route in enumerate(found.routes.tolist()):
        static = routes.net.extract(routes.width(tuple(route))).eval()
        assert_close(found.output[row], static(x[row : row + 1])[0], rtol=1e-10, atol=1e-10)


def test_neither_chunks_nor_compilation_change_outputs():
    torch.manual_seed(0)
    routes, x = mobilenet_v2(), torch.randn(9, 3, 32, 32).double()
    gates = even_gates(routes, x)
    whole = DynamicNet(routes, gates, chunk=100).routed(x)
    for chunk in (1, 4, None):
        found = DynamicNet(routes, gates, chunk=chunk).routed(x)
        assert torch.equal(found.routes, whole.routes)
        assert_close(found.output, whole.output, rtol=1e-10, atol=1e-10)
    compiled = DynamicNet(routes, gates).compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        found = compiled.routed(x)
    assert torch.equal(found.routes, whole.routes)
    assert_close(found.output, whole.output, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="chunk = 0"):
        DynamicNet(routes, gates, chunk=0)


def test_trunks_with_other_statistics_are_warned_of(caplog):
    routes = mobilenet_v2()
    assert not caplog.records
    routes.net.calibrate([torch.randn(8, 3, 32, 32).double()], widths=["M"], batches=1)
    Routes(routes.net, routes.gates, routes.labels)
    assert "'features.0.1.running_mean' differs between the widths S and M" in caplog.text


class Functional(nn.Module):
    """Counts its inputs at the beginning, reshapes by that at the end, and activates in place."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 12, 3), nn.Linear(12, 5)

    def forward(self, x):
        count, _, height, width = x.shape
        y = self.norm(self.first(x))
        y = nn.functional.silu(y.flatten(2), inplace=True).view(-1, 8, height, width)
        return self.last(self.second(y).mean((2, 3)).view(count, -1))


def functional() -> Routes:
    net = Elastic(Functional().double(), torch.zeros(1, 3, 32, 32).double())
    for label, share in (("narrow", 0.5), ("wide", 1.0)):
        net.list_width_(label, net.space.width({"second": share}))
    return made(net, [Cut(at="norm")], ("narrow", "wide"))


def mobilenet_v3() -> Routes:
    net = Elastic(
        torchvision.models.mobilenet_v3_small(num_classes=5).double(), torch.zeros(1, 3, 32, 32).double()
    )
    for label, share in (("narrow", 0.5), ("wide", 1.0)):
        net.list_width_(label, net.space.width({"classifier*": share}))
    return made(net, [Cut(at="features.12.1")], ("narrow", "wide"))  # before an activation in place


@pytest.mark.parametrize("family", [functional, mobilenet_v3])
@pytest.mark.parametrize("count", [1, 9])
def test_routes_neither_change_nor_count_what_others_read(family, count):
    torch.manual_seed(0)
    routes, x = family(), torch.randn(count, 3, 32, 32).double()
    gates = even_gates(routes, x)
    statics = [routes.net.extract(routes.width((k,))).eval()(x) for k in (0, 1)]
    _, leaves = walk(routes, gates, x)
    for leaf, static in zip(leaves, statics, strict=True):
        assert_close(leaf.output, static, rtol=1e-10, atol=1e-10)
    found = DynamicNet(routes, gates, chunk=2).routed(x)
    assert len(found.routes.unique()) == min(count, 2)
    for row, route in enumerate(found.routes.flatten().tolist()):
        assert_close(found.output[row], statics[route][row], rtol=1e-10, atol=1e-10)


def test_a_feature_is_what_its_module_gave():
    torch.manual_seed(0)
    net, x = torchvision.models.resnet18(num_classes=5).eval(), torch.randn(2, 3, 32, 32)
    first, _ = split(net, [Cut(at="layer1", feature="bn1")])  # an activation in place follows it
    assert_close(first.module(x)[0], net.bn1(net.conv1(x)))
