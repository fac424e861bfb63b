"""Extracted detectors in onnxruntime: the same boxes, to single precision."""

import pytest
import torch
from torch import nn

from anywidth.detect.onnx import export_onnx
from anywidth.errors import AnywidthError
from detector_cases import SIZE, size_of, small

ort = pytest.importorskip("onnxruntime")
NAMES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large")  # fmt: skip


def run(path, image):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return {
        n: torch.from_numpy(v)
        for n, v in zip(names, session.run(None, {"image": image.numpy()}), strict=True)
    }


@pytest.mark.parametrize("name", NAMES)
def test_boxes_in_onnxruntime_are_those_of_torch(name, tmp_path):
    net = small(name, dtype=torch.float32)
    model = net.extract(0.25).train()
    export_onnx(model, tmp_path / "detector.onnx", size=size_of(name))
    assert model.training  # its mode is kept
    model.eval()
    for seed in (0, 1):
        x = torch.rand(3, size_of(name), size_of(name), generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = model([x])[0]
        found = run(tmp_path / "detector.onnx", x)
        assert found.keys() == expected.keys()
        assert len(expected["boxes"]) > 2
        assert torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-4, atol=1e-2)  # pixels
        torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-5)
        if "masks" in expected:
            torch.testing.assert_close(found["masks"], expected["masks"], rtol=1e-3, atol=1e-3)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            run(tmp_path / "detector.onnx", x * 0)["scores"], expected["scores"], rtol=1e-3, atol=1e-5
        )


def test_what_is_no_detector_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Linear is no detector"):
        export_onnx(nn.Linear(2, 2), tmp_path / "x.onnx", size=SIZE)


def test_a_detector_that_torch_cannot_export_is_named(tmp_path):
    model = small("fasterrcnn_resnet50_fpn").float().extract(0.25)
    model.transform.forward = lambda images, targets=None: 1 / 0
    with pytest.raises(AnywidthError, match=r"torch\.onnx cannot export FasterRCNN: division by zero"):
        export_onnx(model, tmp_path / "x.onnx", size=SIZE)
    assert not (tmp_path / "x.onnx").exists()
