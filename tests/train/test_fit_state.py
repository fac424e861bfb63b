import dataclasses
import math

import pytest
import torch

from anywidth.errors import CheckpointError
from anywidth.train import DivergenceError, fit_
from anywidth.train.best_epoch import Best
from anywidth.train.engine import new_engine
from anywidth.train.fit_state import FitState, check_losses
from anywidth.train.log import Log
from fit_settings import CONFIG, DRAW


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


@pytest.fixture
def state(new_net, tmp_path):
    def build(config=CONFIG, **values) -> FitState:
        net = new_net()
        return FitState(
            **{
                "engine": new_engine(net, config, None),
                "draw": DRAW,
                "config": config,
                "seed": 0,
                "epoch_steps": 3,
                "run": tmp_path,
                "log": Log(tmp_path),
                "report": lambda progress: None,
                "best": Best(tmp_path, config, None),
                **values,
            }
        )

    return build


def test_steps_epochs_and_the_learning_rate(state):
    """Four epochs of three steps, the first of them a warm-up; then half a cosine over nine steps."""
    fit = state()
    assert fit.steps == 12
    rates, epochs = [], []
    for fit.step in (0, 1, 2, 3, 6, 11):
        rates.append(fit.lr())
        epochs.append(fit.epoch)
    assert epochs == [0, 0, 0, 1, 2, 3]
    cosine = [0.05 * (1 + math.cos(math.pi * t / 9)) / 2 for t in (0, 3, 8)]
    assert rates == pytest.approx([0.05 / 3, 0.05 * 2 / 3, 0.05, *cosine])


def test_widths_are_those_of_the_step_the_seed_and_the_stream(state):
    fit = state()
    first = fit.widths(0)
    assert first[:2] == (1.0, 0.25)
    assert fit.widths(0) == first
    assert fit.widths(1) != first
    assert state(seed=1).widths(0) != first
    fit.step = 1
    assert fit.widths(0) != first


def test_what_changes_nothing_but_the_report_is_no_part_of_the_identity(state):
    identity = state().identity()
    assert (identity["seed"], identity["epoch_steps"], identity["lr"]) == (0, 3, 0.05)
    assert [label for label, _ in identity["listed"]] == ["0.25", "0.5", "1.0"]
    assert state(dataclasses.replace(CONFIG, log_every=7, tensorboard=True)).identity() == identity
    assert state(dataclasses.replace(CONFIG, lr=0.1)).identity() != identity


def test_the_width_whose_loss_is_not_finite_is_named(state):
    fit = state(step=4)
    check_losses(fit, (1.0, 0.25), (0.5, 2.0))
    with pytest.raises(
        DivergenceError, match=r"epoch 2, step 5: the loss of width 0.25 is inf; .* nothing was saved"
    ):
        check_losses(fit, (1.0, 0.25), (0.5, math.inf))
