import copy

import pytest
import torch

from anywidth.gating import DynamicNet, Routes, new_gates, walk
from anywidth.gating.onnx import export_onnx, export_parts
from gates import gates_of


@pytest.mark.parametrize("which", ["one", "two"])
def test_an_exported_network_routes_as_this_one(case, two_gates, tmp_path, which):
    """ONNX runs in onnxruntime one input at a time; the parts run as torch programs for any batch."""
    runtime = pytest.importorskip("onnxruntime")
    if which == "one":
        net, routes, images = case.net, case.routes, case.images[:10]
    else:
        net, routes, images = two_gates
        images = images[:10]
    net = copy.deepcopy(net).float().eval()
    routes = Routes(net, routes.gates, routes.widths)
    images = images.float()
    torch.manual_seed(2)
    gates = new_gates(routes.features(images[:1]), routes.choices)
    with torch.no_grad():
        nodes, _ = walk(routes, list(gates), images)
        for number, gate in enumerate(gates):
            gate.bias -= torch.cat([n.logits for n in nodes if len(n.route) == number]).mean(0)
    dynamic = DynamicNet(routes, list(gates))
    expected = dynamic.routed(images)
    assert expected.routes.unique().numel() > 1
    export_onnx(dynamic, images[:1], tmp_path / "gated.onnx")
    session = runtime.InferenceSession(str(tmp_path / "gated.onnx"), providers=["CPUExecutionProvider"])
    for i in range(len(images)):
        output, route = session.run(None, {"input": images[i : i + 1].numpy()})
        assert route.tolist() == expected.routes[i].tolist()
        torch.testing.assert_close(torch.from_numpy(output)[0], expected.output[i], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="expected a batch of 1, got 2"):
        export_onnx(dynamic, images[:2], tmp_path / "no.onnx")
    export_parts(dynamic, images, tmp_path / "parts")
    trunk = torch.export.load(tmp_path / "parts" / "trunk.pt2").module()
    choice, *values = trunk(images)
    assert torch.equal(choice, expected.routes[:, 0])
    if which == "one":
        for k in choice.unique().tolist():
            branch = torch.export.load(tmp_path / "parts" / f"branch-{k}.pt2").module()
            mine = choice == k
            if mine.sum() > 1:
                torch.testing.assert_close(
                    branch(*(v[mine] for v in values)), expected.output[mine], rtol=1e-4, atol=1e-5
                )


def test_an_exported_network_has_the_type_of_its_input(case, tmp_path):
    """onnxruntime has no float64 convolutions: by the reference implementation."""
    reference = pytest.importorskip("onnx.reference")
    dynamic = DynamicNet(case.routes, list(gates_of(case)))
    export_onnx(dynamic, case.images[:1], tmp_path / "gated.onnx")
    session = reference.ReferenceEvaluator(str(tmp_path / "gated.onnx"))
    assert session.input_types[0].tensor_type.elem_type == 11  # DOUBLE
    assert session.output_types[0].tensor_type.elem_type == 11
    expected = dynamic.routed(case.images)
    for i in range(2):
        output, route = session.run(None, {"input": case.images[i : i + 1].numpy()})
        assert route.tolist() == expected.routes[i].tolist()
        torch.testing.assert_close(torch.from_numpy(output)[0], expected.output[i], rtol=1e-9, atol=1e-9)
