import json

import pytest
import torch
from safetensors.torch import load_file

from anywidth import workflows
from anywidth.errors import WidthError
from anywidth.workflows import PruneOptions


def test_a_width_and_its_description(run, training):
    (exported,) = workflows.export(run, "S")
    assert exported.folder == run / "export-S"
    assert [file.name for file in exported.files] == ["model.json", "model.pt2", "model.safetensors"]
    description = json.loads((exported.folder / "model.json").read_text())
    assert (description["width"], description["macs"]) == ("S", training[0].rows[0]["macs"])
    weights = load_file(exported.folder / "model.safetensors")
    assert {key: list(value.shape) for key, value in weights.items()} == description["shapes"]


def test_a_ratio_into_another_folder(run, tmp_path):
    (exported,) = workflows.export(run, 0.5, out=tmp_path / "out")
    assert exported.folder == tmp_path / "out"
    assert json.loads((tmp_path / "out" / "model.json").read_text())["width"] == 0.5


def test_a_pruned_folder(run):
    pruning = workflows.prune(run, PruneOptions(ratio=0.3))
    (exported,) = workflows.export(pruning.folder)
    program = torch.export.load(exported.folder / "model.pt2").module()
    assert program(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_no_width_is_refused(run):
    with pytest.raises(WidthError, match="say which width"):
        workflows.export(run)
