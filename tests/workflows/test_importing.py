import pytest
import torch

from anywidth import workflows
from anywidth.errors import CheckpointError
from anywidth.models import JoslimCifarResNet
from anywidth.store import load


def test_a_checkpoint_becomes_an_elastic_network(tmp_path):
    torch.save({"model_state_dict": JoslimCifarResNet(20, 5).state_dict()}, tmp_path / "a.pt")
    imported = workflows.import_checkpoint(
        tmp_path / "a.pt", source="joslim", model="slim_resnet20", out=tmp_path / "net.safetensors"
    )
    saved = load(imported.path, JoslimCifarResNet(20, 5))
    assert [row["width"] for row in imported.rows] == list(saved.widths)
    assert [row["params"] for row in imported.rows] == [saved.params(label) for label in saved.widths]


def test_refused_options(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match="give a name with that ending"):
        workflows.import_checkpoint(path, model="resnet20", out=tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="are for the source dsnet"):
        workflows.import_checkpoint(path, model="resnet20", out=tmp_path / "net.safetensors", gate=True)
