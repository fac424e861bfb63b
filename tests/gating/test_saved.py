import json

import pytest
import torch

from anywidth.elastic import Elastic
from anywidth.errors import CheckpointError
from anywidth.gating import DynamicNet, read_gates, write_gates
from gates import gates_of


def test_gates_are_saved_and_read(case, tmp_path):
    gates = gates_of(case)
    write_gates(tmp_path / "gates.safetensors", case.routes, list(gates))
    state = torch.get_rng_state()
    routes, found = read_gates(tmp_path / "gates.safetensors", case.net)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(
        DynamicNet(routes, list(found)).routed(case.images).routes,
        DynamicNet(case.routes, list(gates)).routed(case.images).routes,
    )
    other = Elastic(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)), torch.zeros(1, 4))
    with pytest.raises(CheckpointError, match="do not fit this network"):
        read_gates(tmp_path / "gates.safetensors", other)
    with pytest.raises(CheckpointError, match="cannot be read as gates"):
        read_gates(tmp_path / "none.safetensors", case.net)
    beside = tmp_path / "gates.json"
    about = json.loads(beside.read_text())
    for labels in (None, ["0"]):
        beside.write_text(json.dumps(about | {"labels": labels}))
        with pytest.raises(CheckpointError, match="do not fit this network"):
            read_gates(tmp_path / "gates.safetensors", case.net)
