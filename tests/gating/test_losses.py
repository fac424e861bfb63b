import pytest
import torch

from anywidth.gating import GateConfig, gate_loss, walk
from anywidth.gating.losses import wanted
from anywidth.graph.partition import split
from gates import gates_of


def test_the_expected_loss_is_that_of_an_oracle(case):
    """Four routes by hand, in float64; easy inputs are those that the narrowest gets right."""
    config = GateConfig(
        target=0.8 * case.routes.macs((3,)), cost=0.7, sparsify=0.3, smoothing=0.1, entropy=0.2
    )
    gates = gates_of(case)
    loss, macs = gate_loss(case.routes, list(gates), case.images, case.labels, config)
    loss.backward()
    outputs = [case.net.extract(k).eval()(case.images).detach() for k in range(4)]
    trunk = split(case.net.extract(0).eval(), case.routes.gates)[0].module
    feature = trunk(case.images)[0].detach().flatten(1)
    weight = gates[0].weight.detach().clone().requires_grad_()
    logits = feature @ weight.T + gates[0].bias
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    answer = sum(
        p[:, k] * -(o - o.logsumexp(1, keepdim=True))[range(24), case.labels] for k, o in enumerate(outputs)
    ).mean()
    target = torch.where(outputs[0].argmax(1) == case.labels, 0, 3)
    logp = p.log()
    guided = -(0.9 * logp[range(24), target] + 0.1 * logp.mean(1)).mean()
    costs = torch.tensor(
        [float(case.routes.macs((k,)) + weight.numel()) for k in range(4)], dtype=torch.float64
    )
    spent = (p @ costs).mean()
    entropy = -(p * logp).sum(1).mean()
    oracle = answer + 0.3 * guided + 0.7 * (spent / config.target - 1) ** 2 - 0.2 * entropy
    oracle.backward()
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-12)
    assert macs == pytest.approx(spent.item(), rel=1e-12)
    torch.testing.assert_close(gates[0].weight.grad, weight.grad, rtol=1e-9, atol=1e-12)


def test_hard_inputs_go_where_they_are_sent(case):
    _, leaves = walk(case.routes, list(gates_of(case)), case.images)
    narrow = leaves[0].output.argmax(1) == case.labels
    wide = leaves[-1].output.argmax(1) == case.labels
    assert torch.equal(wanted(leaves, case.labels), ~narrow)
    assert torch.equal(wanted(leaves, case.labels, hard="narrowest"), ~narrow & wide)
    with pytest.raises(ValueError, match="expected widest or narrowest"):
        wanted(leaves, case.labels, hard="middle")
