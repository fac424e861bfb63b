"""Saving and loading: round trips, weights anyone can read, and files that are not what they should be."""

import json
import struct

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.testing import assert_close

from anywidth import Elastic, errors, load
from oracles import TIGHT, rand
from random_nets import RandomNet
from saved_nets import IMAGE, new_model, new_net


@pytest.fixture
def saved(tmp_path):
    net = new_net()
    net.save(tmp_path / "net.safetensors")
    return net, tmp_path / "net.safetensors"


def untouched(model: nn.Module, seed: int) -> bool:
    fresh = new_model(seed).state_dict()
    return all(torch.equal(t, fresh[n]) for n, t in model.state_dict().items())


# --- round trips -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["shared", "switchable", "frozen"])
def test_round_trip(norm, tmp_path):
    net, model = new_net(norm), new_model(seed=5)
    net.save(str(tmp_path / "net.safetensors"))
    other = load(tmp_path / "net.safetensors", model)
    assert other.model is model
    assert other.space == net.space
    assert other.norms.policy == norm
    assert other.widths == net.widths
    assert list(other.widths) == [0.5, "large", 3, 1.0]
    for n, t in net.state_dict().items():
        assert torch.equal(other.state_dict()[n], t), n
    for n, t in net.norm_state().items():
        assert torch.equal(other.norm_state()[n], t), n
    for w in net.widths:
        assert_close(other.eval().at(w)(rand(*IMAGE)), net.eval().at(w)(rand(*IMAGE)), **TIGHT)
        assert other.macs(w) == net.macs(w)
    assert {p.name for p in tmp_path.iterdir()} == {"net.safetensors", "net.norms.safetensors", "net.json"}


def test_listed_widths_of_groups_with_several_channels_per_unit(tmp_path):
    def grouped() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 24, 1, groups=2), nn.Conv2d(24, 2, 1)).double()

    net = Elastic(grouped(), rand(*IMAGE), widths=[0.5, 0.25])
    assert [g.unit for g in net.space.groups] == [2, 2]
    net.save(tmp_path / "net.safetensors")
    assert load(tmp_path / "net.safetensors", grouped()).widths == net.widths


def test_widths_as_their_own_labels_and_chosen_units(tmp_path):
    net = Elastic(new_model(), rand(*IMAGE), widths={})
    prefix, chosen = net.space.uniform(0.4), net.space.width({"stem": [1, 3, 4]})
    net.list_width_(prefix, prefix)
    net.list_width_("chosen", chosen)
    net.save(tmp_path / "net.safetensors")
    other = load(tmp_path / "net.safetensors", new_model())
    assert other.widths == {prefix: prefix, "chosen": chosen}


def test_the_base_model_loads_the_weights_without_this_package(saved):
    net, path = saved
    model = new_model(seed=3)
    model.load_state_dict(safetensors.torch.load_file(path))
    assert_close(model.eval()(rand(*IMAGE)), net.eval()(rand(*IMAGE)), **TIGHT)
    safetensors.torch.load_model(new_model(), path)


def test_tied_parameters_are_saved_and_stay_tied(tmp_path):
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)).double()
        model[2].weight = model[1].weight
        return model

    net, model = Elastic(tied(), rand(2, 3)), tied()
    net.save(tmp_path / "net.safetensors")
    load(tmp_path / "net.safetensors", model)
    assert model[1].weight is model[2].weight
    assert torch.equal(model[1].weight, net.model[1].weight)


def test_saving_again_replaces_all_three_files(saved):
    net, path = saved
    with torch.no_grad():
        net.model.stem.weight.zero_()
    net.save(path)
    assert not load(path, new_model()).model.stem.weight.any()
    assert len(list(path.parent.iterdir())) == 3


def test_a_loaded_network_can_be_trained_on(saved):
    _, path = saved
    net = load(path, new_model())
    net.train().at(0.5)(rand(*IMAGE)).sum().backward()
    assert net.model.stem.weight.grad is not None


# --- files that are not what they should be ------------------------------------------------------------------------------------


def refuses(path, match: str) -> None:
    model = new_model(seed=5)
    with pytest.raises(errors.CheckpointError, match=match):
        load(path, model)
    assert untouched(model, 5)


def test_missing_files(saved):
    _, path = saved
    refuses(path.with_name("other.safetensors"), r"other.safetensors: no such file")
    (path.parent / "net.norms.safetensors").unlink()
    refuses(path, r"net.norms.safetensors: no such file; a saved network is three files")
    (path.parent / "net.json").unlink()
    refuses(
        path, r"no net.json beside it, so these are ordinary weights.*aw.Elastic\(model, example_inputs\)"
    )


@pytest.mark.parametrize("name", ["net.safetensors", "net.norms.safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 100, -8])
def test_truncated_files(saved, name, keep):
    _, path = saved
    file = path.parent / name
    file.write_bytes(file.read_bytes()[:keep])
    refuses(path, f"{name}: truncated or not a safetensors file")


def test_foreign_files(saved):
    _, path = saved
    torch.save({"a": torch.ones(2)}, path)
    refuses(path, "net.safetensors: truncated or not a safetensors file")
    safetensors.torch.save_file(new_model().state_dict(), path)
    refuses(path, r"belongs to another save than its description \(id None, expected")
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refuses(path, "truncated or not a safetensors file")


def test_files_of_two_saves_are_not_mixed(saved):
    net, path = saved
    old = (path.parent / "net.norms.safetensors").read_bytes()
    net.save(path)
    (path.parent / "net.norms.safetensors").write_bytes(old)
    refuses(
        path,
        r"net.norms.safetensors: belongs to another save than its description.*restore all three files from one save",
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "\x00\x01"])
def test_a_description_that_is_none(saved, text):
    _, path = saved
    (path.parent / "net.json").write_text(text)
    refuses(path, "net.json: not a description of an elastic network")


@pytest.mark.parametrize("key", ["id", "space", "widths", "norm"])
def test_a_description_with_a_part_missing(saved, key):
    _, path = saved
    header = json.loads((path.parent / "net.json").read_text())
    del header[key]
    (path.parent / "net.json").write_text(json.dumps(header))
    refuses(path, "net.json: not a description of an elastic network")


def test_a_description_that_is_not_utf8(saved):
    _, path = saved
    (path.parent / "net.json").write_bytes(b"\xff\xfe\x00{")
    refuses(path, "net.json: not a description of an elastic network")


def test_a_newer_format(saved):
    _, path = saved
    header = json.loads((path.parent / "net.json").read_text())
    (path.parent / "net.json").write_text(json.dumps({**header, "format": 99, "space": "of another kind"}))
    refuses(path, r"format 99 is not known to this version \(it reads 1\); update anywidth")


def test_another_model(saved):
    _, path = saved
    model = RandomNet(("residual", "batchnorm", "plain"), (6, 5, 4))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(
        errors.CheckpointError,
        match=r"does not fit RandomNet: 1 missing, e.g. blocks.2.0.bias; 1 of another shape, e.g. head.weight",
    ):
        load(path, model)
    with pytest.raises(
        errors.CheckpointError,
        match=r"does not fit Linear: 2 missing, e.g. weight; \d+ unexpected, e.g. \S+. Give the model that was saved",
    ):
        load(path, nn.Linear(2, 2))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_lost_norm_state(saved):
    _, path = saved
    norms = path.parent / "net.norms.safetensors"
    with safetensors.safe_open(norms, framework="pt") as file:
        tensors, metadata = {n: file.get_tensor(n) for n in file.keys()}, file.metadata()  # noqa: SIM118
    tensors.popitem()
    safetensors.torch.save_file(tensors, norms, metadata=metadata)
    refuses(path, r"net.norms.safetensors: no state for .* \(1 tensors missing\); the file was altered")


# --- saving that fails ---------------------------------------------------------------------------------------------------------
