import pytest
import torch

from anywidth.gating import Cut, DynamicNet, GateConfig, Routes, new_gates
from anywidth.workflows import gate_measuring
from anywidth.workflows.classifier_network import saved_classifier
from anywidth.workflows.gate_measuring import gate_latencies, measured_gates
from anywidth.workflows.run_directory import finished_classifier


@pytest.fixture
def gated(run):
    open_run = finished_classifier(run)
    net = saved_classifier(open_run).eval()
    routes = Routes(net, [Cut(at="stages.0")], ["S", "M", "L", "XL"])
    gates = list(new_gates(routes.features(next(iter(open_run.eval_batches()))[0][:1]), routes.choices))
    return open_run, routes, gates, DynamicNet(routes, gates)


def test_a_gate_stands_beside_static_widths_and_at_other_biases(gated, training):
    open_run, routes, gates, dynamic = gated
    held_out = open_run.eval_batches(open_run.splits.held_out)
    measured = measured_gates(open_run, routes, gates, dynamic, held_out, GateConfig(target=1e5))
    assert measured["images"] == training[0].rows[0]["images"]
    assert [row["accuracy"] for row in measured["static"]] == [row["accuracy"] for row in training[0].rows]
    assert [row["macs"] for row in measured["static"]] == [row["macs"] for row in training[0].rows]
    assert measured["gate"]["target"] == 1e5
    cheapest, *_, dearest = measured["sweep"]
    assert len(measured["sweep"]) == 21
    assert cheapest["macs"] == pytest.approx(measured["static"][0]["macs"] + gates[0].macs)
    assert dearest["macs"] == pytest.approx(measured["static"][-1]["macs"] + gates[0].macs)
    assert (cheapest["accuracy"], dearest["accuracy"]) == (
        training[0].rows[0]["accuracy"],
        training[0].rows[-1]["accuracy"],
    )
    assert cheapest["routes"] == [[measured["images"], 0, 0, 0]]


def test_a_batch_is_timed_beside_the_static_networks_that_its_images_take(gated, monkeypatch):
    open_run, routes, gates, dynamic = gated
    with torch.no_grad():
        gates[0].bias.copy_(torch.tensor([0.0, -99.0, -99.0, -99.0]))  # all take the narrowest
    asked = []

    class Time:
        def __init__(self, median):
            self.median = median

    def timed(calls, repeats):
        asked.append((list(calls), [tuple(call().shape) for call in calls.values()]))
        return {name: Time(6.0 if name == "gated" else 4.0) for name in calls}

    monkeypatch.setattr(gate_measuring, "measure_all", timed)
    rows = gate_latencies(open_run, routes, dynamic)
    assert rows == [{"batch": size, "gated": 6.0, "static_mean": 4.0, "ratio": 1.5} for size in (1, 32, 256)]
    assert asked == [(["gated", "[0]"], [(size, 10)] * 2) for size in (1, 32, 256)]
