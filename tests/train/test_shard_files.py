import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.train import FitConfig, Progress, checkpoint
from sharded_trainings import fit, new_net, settings


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("killed_at", [2, 4])
def test_a_kill_before_the_checkpoint_names_its_shares_costs_one_step(
    tmp_path, monkeypatch, killed_at, optimizer
):
    config = settings(optimizer=optimizer)
    expected = new_net()
    (tmp_path / "whole").mkdir()
    fit(expected, tmp_path / "whole", config)
    run = tmp_path / "killed"
    run.mkdir()
    real = checkpoint.save_checkpoint

    def save(path, parts, progress):
        if progress["step"] == killed_at:
            raise KeyboardInterrupt
        real(path, parts, progress)

    monkeypatch.setattr(checkpoint, "save_checkpoint", save)
    with pytest.raises(KeyboardInterrupt):
        fit(new_net(), run, config)
    assert {p.name for p in run.glob("shards-*")} == {f"shards-{killed_at - 1}", f"shards-{killed_at}"}
    monkeypatch.undo()
    net, steps = new_net(), []
    fit(net, run, config, lambda progress: steps.append(progress.step))
    assert steps[0] == killed_at
    assert {p.name for p in run.glob("shards-*")} == {"shards-6"}
    for (name, t), other in zip(net.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(t, other), name


def test_shares_that_cannot_be_read(tmp_path):
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(new_net(), tmp_path, settings(), stop)
    for file in (tmp_path / "shards-2").glob("*.distcp"):
        file.write_bytes(b"")
    with pytest.raises(
        CheckpointError, match="shards-2: the shares of weights and optimiser state cannot be read"
    ):
        fit(new_net(), tmp_path, settings())
    (tmp_path / "shards-2").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="shards-2: the shares of weights"):
        fit(new_net(), tmp_path, settings())
    with pytest.raises(CheckpointError, match="sharding='fully_shard', now sharding=None"):
        fit(new_net(), tmp_path, FitConfig(epochs=2, lr=0.05, save_every=1))
