import pytest
import torch

from anywidth.errors import WidthError
from anywidth.gating import DynamicNet, GateConfig, bias_for, chosen, costs_of, gate_loss, new_gates, walk


def test_several_gates_choose_each_for_its_stage(two_gates):
    net, routes, images = two_gates
    gates = new_gates(routes.features(images[:1]), 3).double()
    for gate in gates:
        gate.weight.data *= 20
    with torch.no_grad():
        nodes, _ = walk(routes, list(gates), images)
        assert [len(n.route) for n in nodes] == [0, 1, 1, 1]
        gates[0].bias -= nodes[0].logits.mean(0)
        gates[1].bias -= torch.cat([n.logits for n in nodes[1:]]).mean(0)
    found = DynamicNet(routes, list(gates)).routed(images)
    assert len({tuple(r) for r in found.routes.tolist()}) >= 4
    for i, route in enumerate(found.routes.tolist()):
        width = routes.width(tuple(route))
        assert width["layer3.0.conv1"] == routes.widths[route[0]]["layer3.0.conv1"]
        assert width["layer4.0.conv1"] == routes.widths[route[1]]["layer4.0.conv1"]
        static = net.extract(width).eval()(images[i : i + 1])[0]
        torch.testing.assert_close(found.output[i], static, rtol=1e-9, atol=1e-9)
    nodes, _ = walk(routes, list(gates), images)
    assert torch.equal(chosen(nodes), found.routes)
    costs = costs_of(routes)
    target = sum(costs.reachable) / 2
    mean = costs.of(chosen(nodes, [-bias_for(nodes, costs, target) * s for s in costs.shares])).mean()
    assert float(mean) == pytest.approx(target, rel=0.05)
    loss, _ = gate_loss(routes, list(gates), images, torch.randint(0, 5, (20,)), GateConfig(target=target))
    loss.backward()
    assert all(g.weight.grad.abs().sum() > 0 for g in gates)
    with pytest.raises(WidthError, match="masks what follows one gate"):
        gate_loss(routes, list(gates), images, torch.zeros(20, dtype=torch.long), GateConfig(method="gumbel"))
