from argparse import Namespace

import numpy as np
import pytest
import torch

from anywidth import interop
from anywidth.detect import elastic_detector
from anywidth.gating import read_gates
from anywidth.interop import dsnet
from anywidth.models import DSMBNet, JoslimCifarResNet, MobileNetV1
from anywidth.store import load
from deterministic_fill import filled
from dsnet_reference import shapes
from reference import Reference


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("import") / "s.pt"
    torch.save({"model": Reference("s_mobilenet_v1").checkpoint()}, path)
    return path


def test_a_checkpoint_becomes_an_elastic_network(checkpoint, run_command, tmp_path):
    out = tmp_path / "new" / "net.safetensors"
    code, text, err = run_command(
        "import", checkpoint, "--model", "s_mobilenet_v1", "--image-size", 64, "--out", out
    )
    assert (code, err) == (0, "")
    assert "0.75" in text
    assert list(load(out, MobileNetV1()).widths) == [0.25, 0.5, 0.75, 1.0]


def test_a_checkpoint_of_joslim(run_command, tmp_path):
    path, out = tmp_path / "a.pt", tmp_path / "net.safetensors"
    torch.save({"model_state_dict": JoslimCifarResNet(20, 5).state_dict(), "X": np.ones((2, 12))}, path)
    code, text, err = run_command(
        "import", path, "--source", "joslim", "--model", "slim_resnet20", "--out", out
    )
    assert (code, err) == (0, "")
    assert "40.2 M" in text
    assert load(out, JoslimCifarResNet(20, 5)).params(1.0) == 275_056 - 95 * 64


def test_a_checkpoint_of_ds_net(run_command, refused, tmp_path):
    path, out = tmp_path / "a.pth.tar", tmp_path / "net.safetensors"
    state = filled({n: torch.empty(s) for n, s in shapes(5).items() if s})
    torch.save({"state_dict": state, "args": Namespace(lr=0.08)}, path)
    arguments = ("--source", "dsnet", "--model", "ds_mbnet", "--out", out)
    code, text, err = run_command("import", path, *arguments, "--gate", "--no-ema")
    assert (code, err) == (0, "")
    assert "smallest" in text
    net = load(out, DSMBNet(5))
    routes, gates = read_gates(tmp_path / "net.gates.safetensors", net)
    assert torch.equal(gates[0].weight[:, :, None, None], dsnet.head(path))
    assert routes.labels == tuple(map(str, range(len(gates[0].weight))))
    assert "no moving average" in refused("import", path, *arguments, "--ema")
    other = (*arguments, "--gate", "--widths", "0.5,1.0")
    assert "between labels 0 to 3, and label 0 is not listed" in refused("import", path, *other)
    assert list(net.widths) == [*range(14), "smallest", "largest"]
    assert all(net.has_statistics(label) for label in net.widths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "s_mobilenet_v3"), "unknown model of slimmable_networks 's_mobilenet_v3'"),
        (("--model", "s_resnet50"), "does not fit s_resnet50"),
        (("--model", "s_mobilenet_v1", "--widths", "0.5,1.0"), "holds batch norms of 4 widths, expected 2"),
        (("--model", "s_mobilenet_v1", "--gate"), "are for the source dsnet"),
        (("--model", "resnet18", "--source", "hub"), "unknown source of checkpoints 'hub'"),
    ],
)
def test_a_mistake_is_one_line(checkpoint, refused, tmp_path, arguments, message):
    out = tmp_path / "net.safetensors"
    assert message in refused("import", checkpoint, *arguments, "--image-size", 64, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_a_detector_costs_what_its_parts_do(run_command, tmp_path, monkeypatch):
    net = elastic_detector("fasterrcnn_resnet50_fpn", preset="reference", widths=[0.25, 1.0])
    monkeypatch.setattr(interop, "load", lambda *arguments, **options: net)
    monkeypatch.setattr(net, "save", lambda out: None)
    arguments = ("--source", "slimmable_networks-detection", "--model", "fasterrcnn_resnet50_fpn")
    code, text, err = run_command(
        "import", tmp_path / "a.pth", *arguments, "--out", tmp_path / "net.safetensors"
    )
    assert code == 0, err
    assert "25.2 G" in text
    assert "33.6 G" in text  # with 1000 regions
