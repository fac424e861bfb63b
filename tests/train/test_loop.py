import pytest
import torch

from anywidth.train import fit_, listed, log
from fit_settings import CONFIG
from interrupted import StopError, stop_after, weights


def test_training_lowers_the_loss_of_every_width(fit, tmp_path):
    fit()
    records = [record for record in log.read(tmp_path / "run/log.jsonl") if record["event"] == "epoch"]
    assert len(records) == 4
    for name in ("widest", "total"):
        assert records[-1][name] < 0.5 * records[0][name]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(fit):
    assert weights(fit("a")) == weights(fit("b"))
    assert weights(fit("a2", seed=1)) != weights(fit("b2"))


def test_the_global_generator_neither_matters_nor_moves(fit):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights(fit("a", dropout=0.3))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert weights(fit("b", dropout=0.3)) == first


@pytest.mark.parametrize("steps", [2, 3, 7, 11])
def test_an_interrupted_training_ends_with_the_same_weights(fit, tmp_path, steps):
    whole = fit("whole", dropout=0.3)
    with pytest.raises(StopError):
        fit("cut", dropout=0.3, report=stop_after(steps))
    resumed = fit("cut", dropout=0.3)
    assert weights(resumed) == weights(whole)

    def without_time(name):
        records = log.read(tmp_path / name / "log.jsonl")
        return [{k: v for k, v in r.items() if k != "seconds"} for r in records if r["event"] != "resume"]

    assert without_time("cut") == without_time("whole")


def test_switchable_norms_go_on_too(batches, new_net, tmp_path):
    def train(name, **options):
        net = new_net(norm="switchable")
        (tmp_path / name).mkdir(exist_ok=True)
        fit_(net, batches, listed([1.0, 0.5, 0.25]), CONFIG, seed=0, run=tmp_path / name, **options)
        return net

    whole = train("whole")
    with pytest.raises(StopError):
        train("cut", report=stop_after(8))
    assert weights(train("cut")) == weights(whole)


def test_a_finished_training_is_not_trained_again(fit):
    first = fit()
    assert weights(fit(report=stop_after(1))) == weights(first)


def test_only_listed_widths_gather_statistics(fit):
    net = fit(draw=listed([1.0, 0.25, 0.6]))
    assert net.has_statistics(1.0)
    assert net.has_statistics(0.25)
    assert not net.has_statistics(0.6)


def test_progress_is_told_at_every_step(fit):
    seen = []
    fit(report=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 13))
    assert [progress.epoch for progress in seen] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert {(progress.steps, progress.epochs) for progress in seen} == {(12, 4)}
    assert seen[0].lr == pytest.approx(0.05 / 3)
    assert seen[0].widths[:2] == (1.0, 0.25)
