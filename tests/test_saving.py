"""What cannot be saved is refused before anything is written, and a save that fails leaves what was there."""

import pytest
import safetensors.torch

import anywidth.saving
from anywidth import Elastic, errors, load
from oracles import rand
from saved_nets import IMAGE, new_model, new_net


@pytest.fixture
def saved(tmp_path):
    net = new_net()
    net.save(tmp_path / "net.safetensors")
    return net, tmp_path / "net.safetensors"


def test_the_name_must_end_in_safetensors(tmp_path):
    with pytest.raises(
        errors.CheckpointError, match=r"net.pt: elastic networks are saved as NAME.safetensors"
    ):
        new_net().save(tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(errors.CheckpointError, match="nowhere does not exist"):
        new_net().save(tmp_path / "nowhere" / "net.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(errors.CheckpointError, match="file does not exist"):
        new_net().save(tmp_path / "file" / "net.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_save_that_fails_leaves_no_half_written_file(saved, monkeypatch, fails_at):
    net, path = saved
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    calls = []

    def full_disk(tensors, name, metadata):
        calls.append(name)
        if len(calls) == fails_at:
            name.write_bytes(b"half")
            raise OSError("no space left on device")
        safetensors.torch.save_file(tensors, name, metadata=metadata)

    monkeypatch.setattr(anywidth.saving, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        net.save(path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    load(path, new_model())


@pytest.mark.parametrize("label", [("a", 1), frozenset({1}), None])
def test_a_label_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, label):
    net = Elastic(new_model(), rand(*IMAGE), widths={label: 0.5})
    with pytest.raises(errors.CheckpointError, match=r"label .* cannot be saved: use a string or a number"):
        net.save(tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []
