import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.train import checkpoint
from anywidth.train.config import FitConfig
from anywidth.train.engine import new_engine
from anywidth.train.step import accumulate_

PROGRESS = {"epoch": 3, "seed": 0}


def make(new_net, **options):
    return new_engine(new_net(**options), FitConfig(epochs=1, lr=0.1, ema=0.9)).parts


def step_(parts, images):
    parts.net.train()
    parts.optimizer.zero_grad()
    accumulate_(parts.net, *images[:16], widths=[1.0, 0.25])
    parts.optimizer.step()
    parts.ema.update_(parts.net)


def restore(path, parts, expected=None):
    return checkpoint.load_(path, checkpoint.read(path), parts, expected=expected or {})


@pytest.fixture
def saved(new_net, images, tmp_path):
    parts = make(new_net)
    step_(parts, images)
    path = tmp_path / "checkpoint.pt"
    checkpoint.save_checkpoint(path, parts, PROGRESS)
    return path, parts


def test_a_restored_training_takes_the_same_next_step(saved, new_net, images):
    path, parts = saved
    other = make(new_net)
    assert restore(path, other, {"seed": 0}) == PROGRESS
    for each in (parts, other):
        step_(each, images)
    for mine, theirs in ((parts.net, other.net), (parts.ema.net, other.ema.net)):
        expected, found = (n.state_dict() | n.norm_state() for n in (mine, theirs))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert not torch.equal(parts.net.model.fc.weight, parts.ema.net.model.fc.weight)


def test_only_plain_values_are_in_the_file(saved):
    path, _ = saved
    assert set(torch.load(path, weights_only=True)) == {
        "format",
        "net",
        "optimizer",
        "scaler",
        "ema",
        "progress",
    }


def test_a_large_file_cut_anywhere(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"weights": torch.zeros(100_000)}, path)
    whole = path.read_bytes()
    for tenth in range(10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt: cannot be read"):
            checkpoint.read(path)


def test_a_truncated_file(saved, new_net):
    path, parts = saved
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        CheckpointError, match=r"cannot be read .*damaged.* remove it to start the training again"
    ):
        restore(path, parts)


def test_a_file_with_code_in_it_is_not_run(saved, tmp_path):
    path, parts = saved
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return marker.touch, ()

    torch.save({"format": Evil()}, path)
    with pytest.raises(CheckpointError, match="not written by anywidth"):
        restore(path, parts)
    assert not marker.exists()


@pytest.mark.parametrize("content", [{"model": {}}, [1, 2]])
def test_a_foreign_file(saved, content):
    path, parts = saved
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"not a training checkpoint of the format 'anywidth.train/2'"):
        restore(path, parts)


def test_other_settings(saved):
    path, parts = saved
    with pytest.raises(CheckpointError, match="written by a training with seed=0, now seed=7"):
        restore(path, parts, {"seed": 7})


def test_another_model(saved, new_net):
    path, _ = saved
    parts = make(new_net, channels=(8, 24))
    with pytest.raises(CheckpointError, match=r"the saved state does not fit this model: .*size mismatch"):
        restore(path, parts)


def test_a_missing_file(saved):
    path, parts = saved
    path.unlink()
    with pytest.raises(FileNotFoundError):
        restore(path, parts)
