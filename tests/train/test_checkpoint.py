import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.train import checkpoint
from anywidth.train.optim import sgd
from anywidth.train.step import accumulate_

PROGRESS = {"epoch": 3, "seed": 0}


def make(new_net, **options):
    net = new_net(**options)
    return net, sgd(net, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0)


def step_(net, optimizer, images):
    net.train()
    optimizer.zero_grad()
    accumulate_(net, *images[:16], widths=[1.0, 0.25])
    optimizer.step()


@pytest.fixture
def saved(new_net, images, tmp_path):
    net, optimizer = make(new_net)
    step_(net, optimizer, images)
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, net, optimizer, PROGRESS)
    return path, net, optimizer


def test_a_restored_training_takes_the_same_next_step(saved, new_net, images):
    path, net, optimizer = saved
    other, other_optimizer = make(new_net)
    assert checkpoint.load_(path, other, other_optimizer, expected={"seed": 0}) == PROGRESS
    for pair in ((net, optimizer), (other, other_optimizer)):
        step_(*pair, images)
    expected, found = (n.state_dict() | n.norm_state() for n in (net, other))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_only_plain_values_are_in_the_file(saved):
    path, _, _ = saved
    assert set(torch.load(path, weights_only=True)) == {"format", "net", "norms", "optimizer", "progress"}


def test_a_truncated_file(saved, new_net):
    path, net, optimizer = saved
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        CheckpointError, match=r"cannot be read .*damaged.* remove it to start the training again"
    ):
        checkpoint.load_(path, net, optimizer, expected={})


def test_a_file_with_code_in_it_is_not_run(saved, tmp_path):
    path, net, optimizer = saved
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return marker.touch, ()

    torch.save({"format": Evil()}, path)
    with pytest.raises(CheckpointError, match="not written by anywidth"):
        checkpoint.load_(path, net, optimizer, expected={})
    assert not marker.exists()


@pytest.mark.parametrize("content", [{"model": {}}, [1, 2]])
def test_a_foreign_file(saved, content):
    path, net, optimizer = saved
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"not a training checkpoint of the format 'anywidth.train/1'"):
        checkpoint.load_(path, net, optimizer, expected={})


def test_other_settings(saved):
    path, net, optimizer = saved
    with pytest.raises(CheckpointError, match="written by a training with seed=0, now seed=7"):
        checkpoint.load_(path, net, optimizer, expected={"seed": 7})


def test_another_model(saved, new_net):
    path, _, _ = saved
    net, optimizer = make(new_net, channels=(8, 24))
    with pytest.raises(CheckpointError, match=r"the saved state does not fit this model: .*size mismatch"):
        checkpoint.load_(path, net, optimizer, expected={})


def test_a_missing_file(saved):
    path, net, optimizer = saved
    path.unlink()
    with pytest.raises(FileNotFoundError):
        checkpoint.load_(path, net, optimizer, expected={})
