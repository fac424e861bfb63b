import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from anywidth.export.formats import ExportError, export_onnx, export_program, export_weights


class Tied(nn.Module):
    """Batch norm, dropout, and one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(self.norm(self.a(x))))


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    module = Tied().train()
    module.norm.running_mean.normal_()
    return module


def in_evaluation(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    weight = module.a.weight
    norm = module.norm
    x = (x @ weight.T - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return x @ weight.T + module.b.bias


def test_weights_have_the_modules_keys_and_own_memory(module, tmp_path):
    path = tmp_path / "a.safetensors"
    export_weights(module, path)
    saved = load_file(path)
    assert saved.keys() == module.state_dict().keys()
    for key, value in module.state_dict().items():
        assert torch.equal(saved[key], value)


def test_a_slice_is_written_alone(tmp_path):
    module = nn.Linear(8, 8, bias=False)
    module.weight = nn.Parameter(torch.zeros(1024, 1024)[:8, :8])
    export_weights(module, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 1000


def test_the_program_is_in_evaluation_mode_for_any_batch(module, tmp_path):
    path = tmp_path / "a.pt2"
    export_program(module, (torch.randn(1, 4),), path)
    assert module.training
    program = torch.export.load(path).module()
    for n in (1, 2, 7):
        x = torch.randn(n, 4)
        torch.testing.assert_close(program(x), in_evaluation(module, x))


def test_onnx_is_in_evaluation_mode_for_any_batch(module, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "a.onnx"
    export_onnx(module, (torch.randn(1, 4),), path)
    assert module.training
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 7):
        x = torch.randn(n, 4)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), in_evaluation(module, x).detach(), rtol=1e-4, atol=1e-5
        )


def test_a_forward_that_cannot_be_exported(tmp_path):
    with pytest.raises(ExportError, match=r"torch.export cannot follow Branches with a free batch size"):
        export_program(Branches(), (torch.ones(1, 4),), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_forward_that_onnx_cannot_express(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ExportError, match=r"torch.onnx cannot export Branches"):
        export_onnx(Branches(), (torch.ones(1, 4),), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_names_the_missing_extra(module, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ExportError, match=r"ONNX export needs onnx and onnxscript: pip install 'anywidth\[export\]'"
    ):
        export_onnx(module, (torch.ones(1, 4),), tmp_path / "a.onnx")
