import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import anywidth as aw
from anywidth.errors import RecipeError


@pytest.fixture
def small():
    net = aw.Elastic(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 4))
    return net.extract(0.5).eval()


def test_every_target_writes_a_file_with_its_suffix(small, tmp_path):
    x = torch.randn(3, 4)
    for name, target in aw.export.TARGETS.items():
        file = aw.export.export_as(name, small, (x,), tmp_path / name)
        assert file == (tmp_path / name).with_suffix(target.suffix)
        assert file.stat().st_size > 0
    weights = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(weights["0.weight"], small[0].weight)
    program = torch.export.load(tmp_path / "program.pt2").module()
    torch.testing.assert_close(program(x), small(x))


def test_a_users_target_is_one_like_ours(small, tmp_path):
    file = aw.export.export_as("user_code:shapes", small, (torch.randn(1, 4),), tmp_path / "net.txt")
    assert file.read_text() == "0.weight 4x4\n0.bias 4\n2.weight 2x4\n2.bias 2\n"
    declared = aw.export.ExportTarget(write=lambda m, inputs, path: path.write_text("x"), suffix=".text")
    assert aw.export.export_as(declared, small, (), tmp_path / "net").name == "net.text"


def test_an_unknown_target_is_named(small, tmp_path):
    with pytest.raises(RecipeError, match="unknown export target 'onxx'; did you mean 'onnx'"):
        aw.export.export_as("onxx", small, (), tmp_path / "x")
