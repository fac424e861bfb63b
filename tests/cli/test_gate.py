import json
from pathlib import Path

import pytest
import torch

from anywidth.gating import DynamicNet, read_gates
from anywidth.models import SmallResNet
from anywidth.store import load

RECIPE = Path(__file__).parents[2] / "recipes" / "digits_gated.yaml"
CHANGES = ("train.epochs=4", "train.ema=0.9", "gate.epochs=2")


@pytest.fixture(scope="module")
def gated(run_command, tmp_path_factory):
    run = tmp_path_factory.mktemp("gate") / "run"
    code, _, err = run_command("train", RECIPE, *CHANGES, "--run", run)
    assert code == 0, err
    code, out, err = run_command("gate", run, "--latency", "--onnx")
    assert code == 0, err
    assert "gated" in out
    return run


def test_a_gate_is_trained_measured_and_drawn(gated):
    found = json.loads((gated / "gate.json").read_text())
    assert [s["width"] for s in found["static"]] == ["S", "M", "L", "XL"]
    target = 0.4 * found["sweep"][-1]["macs"]
    assert found["gate"]["target"] == pytest.approx(target, rel=0.01)
    assert found["gate"]["macs"] == pytest.approx(
        target, rel=0.15
    )  # 256 held-out images stand for 450 others
    spent = [point["macs"] for point in found["sweep"]]
    assert spent[0] < spent[10] < spent[-1]
    assert found["sweep"][0]["accuracy"] == pytest.approx(found["static"][0]["accuracy"])
    assert found["sweep"][-1]["accuracy"] == pytest.approx(found["static"][-1]["accuracy"])
    assert sum(found["gate"]["routes"][0]) == found["images"]
    assert [row["batch"] for row in found["latency"]] == [1, 32, 256]
    assert (gated / "gate.png").stat().st_size > 10_000
    assert (gated / "gated.onnx").exists()


def test_the_saved_gates_route_images(gated):
    net = load(gated / "net.safetensors", SmallResNet(channels=(8, 32, 64)))
    routes, gates = read_gates(gated / "gates.safetensors", net.eval())
    found = DynamicNet(routes, list(gates)).routed(torch.randn(6, 1, 8, 8))
    assert found.routes.shape == (6, 1)


def test_gates_learn_from_held_out_images(gated, run_command):
    before = (gated / "gate.json").read_text()
    code, _, err = run_command("gate", gated, "gate.images=held_out", "gate.entropy=0.3")
    assert code == 0, err
    found = json.loads((gated / "gate.json").read_text())
    assert found["settings"]["images"] == "held_out"
    assert found["gate"] != json.loads(before)["gate"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--target", "1%"), "is out of reach: these widths cost"),
        (("--target", "many"), "expected a share like 60%, or multiply-adds like 0.33G"),
        (("--target", ""), "gate.target = '': expected a share like 60%"),
        (("--target", "nan"), "gate.target = 'nan': expected a share like 60%"),
        (("--target", "-5%"), "gate.target = '-5%': expected a share like 60%"),
        (("--target", "60"), "a target of 60 multiply-adds is out of reach"),
        (("data.batch_size=1",), "the first batch, which has 1 image; give batches of 2 or more"),
        (("gate.places=[{at: stages.9}]",), "unknown module to cut at 'stages.9'"),
        (("gate.places=[{at: stages.1}]",), "comes before the gate at 'stages.1', so all inputs share it"),
        (("gate.widths=[XL, S]",), "the narrowest first"),
        (("gate.widths=[S, Q]",), "unknown width label 'Q'"),
        (("gate.widths=[S]",), "gate.widths"),
        (("gate.method=luck",), "gate.method = 'luck'"),
        (
            ("data.held_out=100",),
            "data.held_out = 100 would hold out other images than the training did, with 256",
        ),
        (("data.seed=5",), "data.seed = 5 would hold out other images"),
        (("gate.lrr=1",), "unknown key 'gate.lrr'; did you mean 'gate.lr'?"),
        (("train.lr=3",), "anywidth gate uses the sections gate, data, calibration"),
        (("gate=null",), "the recipe has no section gate"),
    ],
)
def test_a_mistake_is_one_line(gated, refused, changes, message):
    assert message in refused("gate", gated, *changes)


def test_a_run_without_held_out_images(run_command, refused, tmp_path):
    run = tmp_path / "run"
    code, _, err = run_command("train", RECIPE, *CHANGES, "train.epochs=2", "data.held_out=0", "--run", run)
    assert code == 0, err
    assert "the run held no images out" in refused("gate", run)
