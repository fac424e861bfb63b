import pytest
import torch
import torchvision

from anywidth.elastic import Elastic
from anywidth.errors import WidthError
from anywidth.gating import (
    Cut,
    DynamicNet,
    GateConfig,
    Routes,
    answers,
    costs_of,
    meet_,
    set_bias_,
    train_gates,
    walk,
)
from gates import gates_of


def test_costs_of_routes_are_those_of_static_networks(case):
    costs = costs_of(case.routes, 100, "slimmable")
    assert costs.routes.tolist() == [case.net.macs(k, convention="slimmable") + 100 for k in range(4)]
    assert costs.shares[0][[0, -1]].tolist() == [0, 1]


def test_a_target_is_met_by_a_bias(case):
    gates = gates_of(case)
    loader = [(case.images[:10], case.labels[:10]), (case.images[10:], case.labels[10:])]
    low, high = costs_of(case.routes, gates[0].macs).reachable
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        target = low + share * (high - low)
        meet_(case.routes, list(gates), loader, target)
        routes = DynamicNet(case.routes, list(gates)).routed(case.images).routes
        mean = float(costs_of(case.routes, gates[0].macs).of(routes).mean())
        assert abs(mean - target) <= (high - low) / 24 + 1
    with pytest.raises(WidthError, match=r"out of reach: these widths cost \d+ to \d+"):
        meet_(case.routes, list(gates), loader, 0.9 * low)


def test_answers_do_not_see_the_bias(case):
    gates = gates_of(case)
    set_bias_(list(gates), costs_of(case.routes), 5.0)
    nodes, right = answers(case.routes, list(gates), [(case.images, case.labels)])
    assert (gates[0].bias[1:] < 0).all()
    set_bias_(list(gates), costs_of(case.routes), 0.0)
    again, _ = walk(case.routes, list(gates), case.images)
    torch.testing.assert_close(nodes[0].logits, again[0].logits.detach())
    for k in range(4):
        static = case.net.extract(k).eval()(case.images).argmax(1) == case.labels
        assert torch.equal(right[:, k], static)


def test_a_target_is_met_where_a_gate_has_its_cheapest_choice_last():
    torch.manual_seed(0)
    net = Elastic(torchvision.models.resnet18(num_classes=5).double(), torch.zeros(1, 3, 32, 32).double())
    widths = [net.space.width({"layer3*": a, "layer4*": b}) for a, b in ((0.25, 1.0), (1.0, 0.25))]
    cuts, images = [Cut(at="layer2"), Cut(at="layer3")], torch.randn(40, 3, 32, 32).double()
    routes = Routes(net, cuts, widths)
    net.calibrate([images], widths=[routes.width(r) for r in routes.all()], batches=1)
    costs, loader = costs_of(routes), [(images, torch.randint(0, 5, (40,)))]
    assert [share.tolist() for share in costs.shares] == [[0, 1], [1, 0]]
    low, high = costs.reachable
    for share in (0.2, 0.5, 0.8):
        target = low + share * (high - low)
        net_ = train_gates(routes, lambda e: loader, GateConfig(epochs=1, target=target), held_out=loader)
        spent = costs_of(routes, sum(g.macs for g in net_.gates)).of(net_.routed(images).routes).mean()  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert float(spent) == pytest.approx(target, rel=0.03)
