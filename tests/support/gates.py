"""Gates with which every route is taken by some inputs."""

import torch

from anywidth.gating import new_gates, walk


def gates_of(case, scale=3.0):
    torch.manual_seed(1)
    gates = new_gates(case.routes.features(case.images[:1]), case.routes.choices).double()
    for gate in gates:
        gate.weight.data = scale * torch.randn_like(gate.weight)
    set_even_(case, gates)
    return gates


def set_even_(case, gates):
    """Biases with which the four routes are taken by about as many inputs."""
    with torch.no_grad():
        nodes, _ = walk(case.routes, gates, case.images)
        for gate, logits in zip(gates, [nodes[0].logits], strict=True):
            gate.bias -= logits.mean(0)
