"""Gated inference of other networks: every row of a batch is the static network of its route."""

import pytest
import torch
import torchvision
from torch.testing import assert_close

from anywidth.dynamic import Cut, DynamicNet, Routes, new_gates, walk
from anywidth.elastic import Elastic
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
    net = Elastic(torchvision.models.vgg11_bn(num_classes=5).double(), torch.zeros(1, 3, 32, 32).double())
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
