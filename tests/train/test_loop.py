import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.train import DivergenceError, FitConfig, fit_, listed, log, sandwich
from interrupted import StopError, stop_after, weights

CONFIG = FitConfig(epochs=4, lr=0.05, warmup_epochs=1, log_every=2)
DRAW = sandwich(low=0.25, high=1.0, random=2)


@pytest.fixture
def fit(batches, new_net, tmp_path):
    def run(name="run", *, seed=0, config=CONFIG, draw=DRAW, dropout=0.0, **options):
        net = new_net(dropout)
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        fit_(net, batches, draw, config, seed=seed, run=directory, **options)
        return net

    return run


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


def test_a_loss_that_is_not_finite_stops_with_one_message(fit, images, tmp_path):
    def poison(progress):
        if progress.step == 5:
            images.tensors[0].fill_(float("inf"))

    with pytest.raises(
        DivergenceError,
        match=r"epoch 2, step 6: the loss of width 1.0 is nan; "
        r"lower the learning rate \(now at most 0.05\) .* "
        r"the last good state is kept in .*checkpoint.pt",
    ):
        fit(report=poison)
    saved = torch.load(tmp_path / "run/checkpoint.pt", weights_only=True)
    assert saved["progress"]["step"] == 3
    assert all(value.isfinite().all() for value in saved["net"].values())


def test_a_divergence_in_the_first_epoch_says_so(fit, images):
    images.tensors[0].fill_(float("nan"))
    with pytest.raises(DivergenceError, match=r"epoch 1, step 1: .* nothing was saved"):
        fit()


def test_a_weight_that_is_not_finite_is_not_saved(fit, batches, new_net, tmp_path):
    net = new_net()

    def poison(progress):
        if progress.step == 3:
            with torch.no_grad():
                net.model.fc.bias.fill_(float("inf"))

    with pytest.raises(
        DivergenceError, match=r"after step 3: model.fc.bias holds a number that is not finite"
    ):
        fit_(net, batches, DRAW, CONFIG, seed=0, run=tmp_path, report=poison)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_other_settings_do_not_go_on_from_a_checkpoint(fit):
    fit()
    with pytest.raises(CheckpointError, match="written by a training with seed=0, now seed=1"):
        fit(seed=1)


def test_other_listed_widths_do_not_go_on_from_a_checkpoint(fit, batches, new_net, tmp_path):
    fit()
    net = new_net()
    net.list_width_("more", 0.75)
    with pytest.raises(CheckpointError, match=r"listed=.*now listed=.*'more'"):
        fit_(net, batches, DRAW, CONFIG, seed=0, run=tmp_path / "run")
