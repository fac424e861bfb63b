import json

import pytest
import torch
from torch import nn

from anywidth import Elastic, prune
from anywidth.errors import CheckpointError
from anywidth.prune.saved import ABOUT, WEIGHTS, again, cut_, read, rebuilt, weights, write

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def about(steps: list) -> dict:
    sizes = dict.fromkeys(("macs", "params", "macs_of_the_first", "params_of_the_first"), 1)
    return {"steps": steps, "model": "", "kwargs": {}, "input": [1, 3], **sizes}


@pytest.fixture
def folder(tmp_path):
    net = Elastic(wide(), X)
    small, step = cut_(net, net.space.width({"0": [1, 4, 6]}), fold=False)
    write(tmp_path / "pruned", small, about([step]))
    return tmp_path / "pruned", net, small


def test_a_network_is_rebuilt_from_its_steps_and_weights(folder):
    path, net, small = folder
    torch.testing.assert_close(rebuilt(path, wide(), X)(X), small(X))
    assert torch.equal(weights(path)["0.weight"], net.model[0].weight[[1, 4, 6]])
    assert read(path)["steps"][0]["streams"] == "coupled"


def test_from_scratch_the_weights_are_those_of_the_wide_network(folder):
    path, _, small = folder
    fresh = wide()
    scratch = rebuilt(path, fresh, X, fresh=True)
    assert torch.equal(scratch[0].weight, fresh[0].weight[[1, 4, 6]])
    assert torch.equal(scratch[2].weight, fresh[2].weight[:, [1, 4, 6]])
    assert scratch[0].weight.shape == small[0].weight.shape


def test_steps_of_another_network_are_refused(folder):
    path, *_ = folder
    steps = read(path)["steps"]
    with pytest.raises(CheckpointError, match="the pruning is of another network"):
        again(nn.Sequential(nn.ReLU(), *wide()), X, steps)
    with pytest.raises(CheckpointError, match="the pruning is of another network"):
        again(wide(), X, [{"freeze": []}])


@pytest.mark.parametrize("text", ["[]", '{"format": 9}', '{"format": 1, "steps": {}}'])
def test_descriptions_of_something_else_are_refused(folder, text):
    path, *_ = folder
    (path / ABOUT).write_text(text)
    with pytest.raises(CheckpointError, match="describes no pruned network of format 1"):
        read(path)


def test_missing_and_damaged_files_are_named(folder):
    path, *_ = folder
    (path / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"net\.safetensors: cannot be read"):
        rebuilt(path, wide(), X)
    (path / ABOUT).write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        prune.read(path)
    (path / ABOUT).unlink()
    with pytest.raises(CheckpointError, match="`anywidth prune RUN` writes it"):
        read(path)


def test_weights_that_do_not_fit_are_named(folder):
    path, *_ = folder
    description = json.loads((path / ABOUT).read_text())
    description["steps"][0]["width"]["0"] = [1, 4]
    (path / ABOUT).write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"net\.safetensors: does not fit: .*size mismatch"):
        rebuilt(path, wide(), X)
